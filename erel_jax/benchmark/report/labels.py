"""Places the names of points in a plot so that no two names overlap.

Names beside points are easier to read than a legend, but methods cluster. Each name tries positions around its point,
near ones first, and takes the cheapest one that covers no other name and no point. If every near position is taken,
the free position nearest to the point is used and a thin leader line is to be drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LINE_HEIGHT = 1.25
"""Height of a label box in font sizes."""

LEADER_DISTANCE = 11.0
"""A label whose box is farther from its point than this needs a leader line."""

RANK_COST = 0.1
"""What each later place in the order of preference costs, in units of distance from the point."""

CROSSING_COST = 9.0
"""What crossing a drawn line costs, in units of distance from the point; a leader through a label costs twice that."""

_NARROW = frozenset("ijlftrI.,:;'|!()[] -1")
_WIDE = frozenset("mwMW@%")


@dataclass(frozen=True)
class Box:
    """An axis-aligned rectangle; y grows downwards."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Bottom edge."""
        return self.top + self.height

    def overlaps(self, other: "Box", gap: float = 0.0) -> bool:
        """Return whether the rectangles share area when each pair must keep a gap."""
        return (
            self.left < other.right + gap
            and other.left < self.right + gap
            and self.top < other.bottom + gap
            and other.top < self.bottom + gap
        )

    def inside(self, other: "Box") -> bool:
        """Return whether this rectangle lies within the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of the rectangle nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def distance(self, x: float, y: float) -> float:
        """Return the distance from (x, y) to the rectangle, 0 inside."""
        near_x, near_y = self.nearest(x, y)
        return math.hypot(near_x - x, near_y - y)


def text_width(text: str, font_size: float) -> float:
    """Estimate the width of text in a sans-serif font, on the safe side for wide fonts.

    Args:
        text: one line.
        font_size: in the unit of the result.

    Returns:
        The width.
    """
    ems = 0.0
    for character in text:
        if character in _NARROW:
            ems += 0.38
        elif character in _WIDE:
            ems += 0.95
        elif character.isupper():
            ems += 0.72
        else:
            ems += 0.60 if ord(character) < 0x2E80 else 1.0
    return 1.04 * ems * font_size  # names of the front are bold


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    area: Box,
    *,
    font_size: float,
    obstacles: Sequence[Box] = (),
    lines: Sequence[Box] = (),
    first: Sequence[bool] = (),
    marker_radius: float = 5.0,
) -> list[Box]:
    """Find a box for each text, near its point, without overlaps.

    Args:
        points: (x, y) of each point.
        texts: the label of each point.
        area: labels stay inside it.
        font_size: in the unit of the coordinates.
        obstacles: boxes that labels must not cover.
        lines: thin boxes (drawn lines) that labels avoid where they can.
        first: for each text whether it is placed before the others; none if empty.
        marker_radius: labels keep off every point by this much.

    Returns:
        One box per point. Boxes overlap neither each other nor points nor obstacles as long as the area has room.
    """
    markers = [Box(x - marker_radius, y - marker_radius, 2 * marker_radius, 2 * marker_radius) for x, y in points]
    sizes = [(text_width(text, font_size), font_size * LINE_HEIGHT) for text in texts]
    crowding = [sum(math.hypot(x - a, y - b) < 60 for a, b in points) for x, y in points]
    early = list(first) or [False] * len(points)
    order = sorted(range(len(points)), key=lambda i: (not early[i], -crowding[i], points[i]))
    blocked = [*markers, *obstacles]
    dots = [Box(x - 2.0, y - 2.0, 4.0, 4.0) for x, y in points]
    boxes: dict[int, Box] = {}
    for _ in range(3):  # later rounds move labels whose best place was freed or became crowded
        for index in order:
            others = [(points[other], box) for other, box in boxes.items() if other != index]
            boxes[index] = _best_box(points[index], sizes[index], area, blocked, (lines, dots), others)
    return [boxes[index] for index in range(len(points))]


def _best_box(
    point: tuple[float, float],
    box_size: tuple[float, float],
    area: Box,
    blocked: Sequence[Box],
    avoided: tuple[Sequence[Box], Sequence[Box]],
    others: Sequence[tuple[tuple[float, float], Box]],
) -> Box:
    lines, dots = avoided
    blocked = [*blocked, *(box for _, box in others)]
    best, best_cost = None, math.inf
    for rank, box in enumerate(_near(point, box_size)):
        cost = box.distance(*point) + RANK_COST * rank
        if cost >= best_cost or not box.inside(area) or any(box.overlaps(other, 1.0) for other in blocked):
            continue
        cost += CROSSING_COST * sum(box.overlaps(line) for line in lines)
        if cost < best_cost:
            crossed = sum(_leader_crosses(point, box, label) for _, label in others)
            crossed += sum(_leader_crosses(point, box, dot) for dot in dots if dot.distance(*point) > 2.0)
            crossed += sum(_leader_crosses(anchor, label, box) for anchor, label in others)
            cost += 2 * CROSSING_COST * crossed
        if cost < best_cost:
            best, best_cost = box, cost
    return best or _anywhere(point, box_size, area, blocked)


def _leader_crosses(point: tuple[float, float], box: Box, label: Box) -> bool:
    """Whether the line from the point to its box runs through another label."""
    (x, y), (end_x, end_y) = point, box.nearest(*point)
    if math.hypot(end_x - x, end_y - y) <= LEADER_DISTANCE:
        return False
    enters, leaves = 0.0, 1.0  # the part of the line that lies between both pairs of edges
    for start, end, low, high in ((x, end_x, label.left, label.right), (y, end_y, label.top, label.bottom)):
        if start == end:
            if not low < start < high:
                return False
            continue
        near, far = sorted(((low - start) / (end - start), (high - start) / (end - start)))
        enters, leaves = max(enters, near), min(leaves, far)
    return enters < leaves


def _near(point: tuple[float, float], box_size: tuple[float, float]) -> list[Box]:
    """Places around the point in order of preference: beside, above, below, then beside and shifted up or down."""
    (x, y), (width, height) = point, box_size
    boxes = []
    for gap in (7, 10, 14, 19, 25, 32, 40, 50):
        boxes += [
            Box(x + gap, y - height / 2, width, height),
            Box(x - gap - width, y - height / 2, width, height),
            Box(x - width / 2, y - gap - height, width, height),
            Box(x - width / 2, y + gap, width, height),
        ]
    for gap in (5, 10, 18, 28):
        for shift in (0.7, 1.1, 1.6, 2.2, 2.9, 3.7):
            for top in (y - height * (shift + 0.5), y + height * (shift - 0.5)):
                boxes += [Box(x + gap, top, width, height), Box(x - gap - width, top, width, height)]
    return boxes


def _anywhere(point: tuple[float, float], box_size: tuple[float, float], area: Box, blocked: Sequence[Box]) -> Box:
    """The free place nearest to the point on a grid over the area; in a full area, beside the point."""
    width, height = box_size
    columns = max(1, int((area.width - width) // 6) + 1)
    rows = max(1, int((area.height - height) // 4) + 1)
    grid = [Box(area.left + 6 * i, area.top + 4 * j, width, height) for i in range(columns) for j in range(rows)]
    grid.sort(key=lambda box: box.distance(*point))
    for box in grid:
        if not any(box.overlaps(other, 1.0) for other in blocked):
            return box
    return grid[0]
