"""Labels in crowded plots: no overlaps, near their points."""

import itertools
import random

import pytest

from erel_jax.benchmark.report.labels import Box, place_labels, text_width

AREA = Box(40, 20, 350, 250)
NAMES = ["full_fine_tuning", "lora_r8", "iisan_cached", "bitfit", "houlsby_adapter", "linear_probe", "frozen"]


def check(points, names, obstacles=()):
    boxes = place_labels(points, names, AREA, font_size=11.0, obstacles=obstacles)
    assert len(boxes) == len(points)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box, name in zip(boxes, names, strict=True):
        assert box.inside(AREA)
        assert box.width == pytest.approx(text_width(name, 11.0))
        assert not any(box.overlaps(obstacle) for obstacle in obstacles)
        assert not any(box.overlaps(Box(x - 4, y - 4, 8, 8)) for x, y in points)
    return boxes


@pytest.mark.parametrize("seed", range(20))
def test_clusters_do_not_overlap(seed):
    generator = random.Random(seed)
    centers = [(generator.uniform(60, 370), generator.uniform(40, 250)) for _ in range(3)]
    points, names = [], []
    for index in range(15):
        x, y = generator.choice(centers)
        points.append((min(380, max(50, x + generator.gauss(0, 8))), min(262, max(28, y + generator.gauss(0, 8)))))
        names.append(f"{generator.choice(NAMES)}_{index}")
    assert len(check(points, names, obstacles=[Box(330, 120, 60, 14)])) == 15


def test_twelve_methods_at_one_point():
    boxes = check([(215.0, 145.0)] * 12, [f"{NAMES[i % 7]}_{i}" for i in range(12)])
    assert max(box.distance(215, 145) for box in boxes) < 120


def test_a_lone_label_is_beside_its_point():
    (box,) = check([(100.0, 100.0)], ["lora"])
    assert box.left > 100 and box.distance(100, 100) < 8
    (box,) = check([(385.0, 100.0)], ["full_fine_tuning"])
    assert box.right < 385


def test_the_same_input_gives_the_same_places():
    points = [(100.0, 100.0), (104.0, 101.0), (98.0, 97.0)]
    assert check(points, NAMES[:3]) == check(points, NAMES[:3])


def test_a_label_wider_than_the_area_still_gets_a_box():
    (box,) = place_labels([(100.0, 100.0)], ["x" * 200], AREA, font_size=11.0)
    assert box.left == AREA.left
