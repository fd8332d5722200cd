"""Quality against one cost, as a small SVG picture that is part of the page.

Each picture shows every method with a value on that cost, the Pareto front as a staircase, and the best floor as a
dashed line. Methods are named beside their points. The pictures are written as SVG text with class names instead of
colors, so that they follow the page into dark mode and print, stay sharp at any size, and carry their numbers for
screen readers and on hover. They are drawn for 400 units of width, so that a phone shows their text at full size.
"""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from erel_jax.benchmark.report import quantities
from erel_jax.benchmark.report.columns import COLUMNS
from erel_jax.benchmark.report.labels import LEADER_DISTANCE, Box, place_labels, text_width
from erel_jax.benchmark.summary import TRAINING_AXES, MethodSummary, Summary

WIDTH, HEIGHT = 400.0, 320.0
AREA = Box(38.0, 26.0, WIDTH - 38.0 - 8.0, HEIGHT - 26.0 - 42.0)
LABEL_AREA = Box(AREA.left - 8.0, AREA.top - 6.0, AREA.width + 14.0, AREA.height + 3.0)
FONT_SIZE = 11.0
PADDING = 10.0
ZERO_GUTTER = 34.0

_TRAILING_ZEROS = re.compile(r"\.0+(?=\D|$)|(?<=\.[1-9])0+(?=\D|$)")

AXIS_TITLES = {
    "train_step_seconds": "Training step time",
    "peak_bytes": "Peak memory",
    "trainable_parameters": "Trainable parameters",
    "query_seconds_p50": "Query latency (p50)",
    "bytes_per_item": "Bytes per item",
}


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        axis: the cost, a field of the records.
        title: what is plotted, for the caption.
        svg: the picture, safe to put into a page as it is.
        missing: methods without a value on this axis, with the reason.
    """

    axis: str
    title: str
    svg: str
    missing: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Scale:
    """Maps a range of values to a range of coordinates, linearly or by logarithm.

    A logarithmic scale keeps zeros in a gutter of their own at the low end.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    zero: float | None = None

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        if self.log and value <= 0 and self.zero is not None:
            return self.zero
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (
                self.low,
                self.high,
                value,
            )
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int) -> list[float]:
        """Return round values within the range, about as many as wanted."""
        found = _log_ticks(self.low, self.high, wanted) if self.log else _linear_ticks(self.low, self.high, wanted)
        return ([0.0] if self.zero is not None else []) + found


def draw_plot(summary: Summary, axis: str) -> Plot | None:
    """Draw quality against one cost.

    Args:
        summary: the summary of a run.
        axis: one of `summary.COST_AXES`.

    Returns:
        The plot, or None if no method has a value on this axis.
    """
    candidates = summary.learned if axis in TRAINING_AXES else (*summary.learned, *summary.floors)
    shown = [m for m in candidates if m.quality and m.costs[axis]]
    missing = tuple((m.method, m.reason(axis) or "no quality") for m in candidates if m not in shown)
    if not shown:
        return None
    costs = [_cost(method, axis) for method in shown]
    x_scale = _cost_scale(costs)
    y_scale = _quality_scale(summary, shown)
    points = [(x_scale(cost), y_scale(_quality(method))) for cost, method in zip(costs, shown, strict=True)]
    format_cost = next(column.format for column in COLUMNS if column.key == axis)
    title = AXIS_TITLES[axis]
    parts = [
        *_grid(x_scale, y_scale, format_cost),
        *_axis_titles(f"{title}{', log scale' if x_scale.log else ''}", summary.headline),
    ]
    floor_parts, floor_box, lines = _floor_line(summary, y_scale, points)
    front = sorted(p for p, m in zip(points, shown, strict=True) if m.front[axis])
    front_parts, steps = _front_line(front)
    parts += [*floor_parts, *front_parts, *_error_bars(shown, points, y_scale)]
    obstacles = [floor_box] if floor_box else []
    names, first = [m.method for m in shown], [m.front[axis] for m in shown]
    boxes = place_labels(
        points, names, LABEL_AREA, font_size=FONT_SIZE, obstacles=obstacles, lines=[*lines, *steps], first=first
    )
    behind = sorted(zip(shown, points, strict=True), key=lambda pair: pair[0].front[axis])
    parts += [_marker(method, point, axis, format_cost, summary.headline) for method, point in behind]
    for method, point, box in zip(shown, points, boxes, strict=True):
        parts += _label(method, point, box, axis)
    description = f"{summary.headline} against {title.lower()} of {len(shown)} methods; numbers are in the table"
    svg = (
        f'<svg class="plot" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{html.escape(description)}" '
        f'font-size="{FONT_SIZE:g}">{"".join(parts)}</svg>'
    )
    return Plot(axis, title, svg, missing)


def _cost(method: MethodSummary, axis: str) -> float:
    found = method.costs[axis]
    return found.mean if found else math.nan


def _quality(method: MethodSummary) -> float:
    return method.quality.mean if method.quality else math.nan


def _cost_scale(costs: Sequence[float]) -> Scale:
    """Logarithmic where the costs span a factor of 5 or more, else linear around them."""
    positive = [cost for cost in costs if cost > 0]
    start, end = AREA.left + PADDING, AREA.right - PADDING
    if not positive:
        return Scale(0.0, 1.0, start, end, log=False)
    low, high = min(positive), max(positive)
    has_zero = len(positive) < len(costs)
    if high / low >= 5 or has_zero:
        zero = start + 4 if has_zero else None
        pad = (high / low) ** 0.04 if high > low else 2.0
        return Scale(low / pad, high * pad, start + (ZERO_GUTTER if has_zero else 0), end, log=True, zero=zero)
    pad = (high - low) * 0.08 or low * 0.25
    return Scale(max(0.0, low - pad), high + pad, start, end, log=False)


def _quality_scale(summary: Summary, shown: Sequence[MethodSummary]) -> Scale:
    values = [_quality(method) for method in shown]
    if summary.best_floor:
        values.append(_quality(summary.best_floor))
    low, high = min(values), max(values)
    pad = (high - low) * 0.12 or max(high * 0.1, 0.01)
    bottom = max(0.0, low - pad)
    return Scale(bottom, high + pad, AREA.bottom - 4, AREA.top + 4, log=False)


def _linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    raw = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, wanted: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(ticks) <= wanted:
            break
    else:
        ticks = ticks[:: math.ceil(len(ticks) / wanted)]
    return ticks if len(ticks) >= 2 else _linear_ticks(low, high, wanted)


def _grid(x_scale: Scale, y_scale: Scale, format_cost) -> list[str]:
    parts = []
    digits = 3 if y_scale.high - y_scale.low < 0.1 else 2
    for value in y_scale.ticks(5):
        y = y_scale(value)
        parts.append(f'<path class="grid" d="M{AREA.left:g} {y:.1f}H{AREA.right:g}"/>')
        label = quantities.fraction(value, digits)
        parts.append(f'<text class="tick" x="{AREA.left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    used = -math.inf
    for value in x_scale.ticks(5):
        x, label = x_scale(value), html.escape(_TRAILING_ZEROS.sub("", format_cost(value)))
        half = text_width(label, FONT_SIZE) / 2
        if x - half < used + 6 or x + half > WIDTH:
            continue
        used = x + half
        parts.append(f'<path class="axis" d="M{x:.1f} {AREA.bottom:g}v4"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{AREA.bottom + 17:g}" text-anchor="middle">{label}</text>')
    parts.append(f'<path class="axis" d="M{AREA.left:g} {AREA.bottom:g}H{AREA.right:g}"/>')
    return parts


def _axis_titles(cost_title: str, headline: str) -> list[str]:
    return [
        f'<text class="axis-title" x="{AREA.right:g}" y="{HEIGHT - 6:g}" text-anchor="end">'
        f"{html.escape(cost_title)} \u2192</text>",
        f'<text class="axis-title" x="0" y="11">\u2191 {html.escape(headline)}</text>',
    ]


def _floor_line(
    summary: Summary, y_scale: Scale, points: Sequence[tuple[float, float]]
) -> tuple[list[str], Box | None, list[Box]]:
    """The best floor as a dashed line; its label goes to the end of the line that is farther from points."""
    best = summary.best_floor
    if best is None:
        return [], None, []
    y = y_scale(_quality(best))
    label = "best floor"
    width, height = text_width(label, FONT_SIZE), FONT_SIZE * 1.25
    places = [
        Box(left, top, width, height)
        for left in (AREA.right - width - 2, AREA.left + 2)
        for top in (y - height - 2, y + 2)
        if top >= AREA.top - 8 and top + height <= AREA.bottom
    ]
    if not places:
        places = [Box(AREA.right - width - 2, AREA.top, width, height)]
    box = max(places, key=lambda place: min((min(place.distance(*p), 24.0) for p in points), default=24.0))
    parts = [
        f'<path class="floor-line" d="M{AREA.left:g} {y:.1f}H{AREA.right:g}"/>',
        f'<text class="floor-text" x="{box.left:.1f}" y="{box.bottom - 3.5:.1f}">{label}</text>',
    ]
    return parts, box, [Box(AREA.left, y - 1, AREA.width, 2)]


def _front_line(front: Sequence[tuple[float, float]]) -> tuple[list[str], list[Box]]:
    """The Pareto front as a staircase: for each cost, the best quality at most that dear."""
    if not front:
        return [], []
    path = f"M{front[0][0]:.1f} {front[0][1]:.1f}"
    boxes = []
    for (x0, y0), (x1, y1) in zip(front, [*front[1:], (AREA.right, front[-1][1])], strict=True):
        path += f"H{x1:.1f}V{y1:.1f}"
        boxes += [Box(x0, y0 - 1, x1 - x0, 2), Box(x1 - 1, min(y0, y1), 2, abs(y1 - y0))]
    return [f'<path class="front-line" d="{path}"/>'], boxes


def _error_bars(shown: Sequence[MethodSummary], points: Sequence[tuple[float, float]], y_scale: Scale) -> list[str]:
    bars = []
    for method, (x, _) in zip(shown, points, strict=True):
        quality = method.quality
        if quality is None or not quality.deviation:
            continue
        top = max(AREA.top, y_scale(quality.mean + quality.deviation))
        bottom = min(AREA.bottom, y_scale(quality.mean - quality.deviation))
        bars.append(f'<path class="error" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
    return bars


def _style(method: MethodSummary, axis: str) -> str:
    role = "floor" if method.kind == "floor" else "learned"
    return f"{role} front" if method.front[axis] else role


def _marker(method: MethodSummary, point: tuple[float, float], axis: str, format_cost, headline: str) -> str:
    x, y = point
    numbers = f"{headline} {quantities.fraction(_quality(method))}, {format_cost(_cost(method, axis))}"
    title = f"<title>{html.escape(f'{method.method}: {numbers}')}</title>"
    style = _style(method, axis)
    if method.kind == "floor":
        return f'<path class="point {style}" d="M{x:.1f} {y - 5.2:.1f}l5.2 5.2-5.2 5.2-5.2-5.2z">{title}</path>'
    return f'<circle class="point {style}" cx="{x:.1f}" cy="{y:.1f}" r="4.3">{title}</circle>'


def _label(method: MethodSummary, point: tuple[float, float], box: Box, axis: str) -> list[str]:
    x, y = point
    parts = []
    if box.distance(x, y) > LEADER_DISTANCE:
        near_x, near_y = box.nearest(x, y)
        reach = math.hypot(near_x - x, near_y - y)
        from_x, from_y = x + (near_x - x) * 5.5 / reach, y + (near_y - y) * 5.5 / reach
        parts.append(f'<path class="leader" d="M{from_x:.1f} {from_y:.1f}L{near_x:.1f} {near_y:.1f}"/>')
    # The estimated width is generous: text is anchored on the side that faces the point.
    if box.left >= x:
        anchor, text_x = "start", box.left
    elif box.right <= x:
        anchor, text_x = "end", box.right
    else:
        anchor, text_x = "middle", box.left + box.width / 2
    parts.append(
        f'<text class="name {_style(method, axis)}" x="{text_x:.1f}" y="{box.bottom - 3.6:.1f}" '
        f'text-anchor="{anchor}">{html.escape(method.method)}</text>'
    )
    return parts
