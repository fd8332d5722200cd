"""Plots: every method shown, points where they belong, labels inside the picture."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import pytest

from erel_jax.benchmark.report.plots import HEIGHT, WIDTH, Scale, draw_plot
from erel_jax.benchmark.summary import COST_AXES, TRAINING_AXES, summarize


def parsed(svg):
    return ElementTree.fromstring(svg)


def with_class(svg, name):
    return [node for node in parsed(svg).iter() if name in str(node.get("class")).split()]


def number(node, attribute):
    return float(node.attrib[attribute])


def points(svg):
    """Marker position by method name, from the hover texts."""
    found = {}
    for node in with_class(svg, "learned"):
        if node.tag == "circle":
            found[str(node[0].text).split(":")[0]] = (number(node, "cx"), number(node, "cy"))
    return found


@pytest.mark.parametrize("axis", COST_AXES)
def test_every_method_with_a_value_is_drawn_and_named(records, axis):
    summary = summarize(records)
    plot = draw_plot(summary, axis)
    assert plot is not None
    floors = [] if axis in TRAINING_AXES else ["pixel_neighbors", "name_tfidf"]
    expected = {m.method for m in summary.learned} | set(floors)
    assert {node.text for node in with_class(plot.svg, "name")} == expected
    assert len(with_class(plot.svg, "point")) == len(expected)
    drawn = {m.method for m in (*summary.learned, *summary.floors) if m.front[axis]}
    assert {node.text for node in with_class(plot.svg, "name") if "front" in node.attrib["class"]} == drawn
    assert [name for name, _ in plot.missing] == ([] if axis in TRAINING_AXES else ["random"])
    assert len(with_class(plot.svg, "floor-line")) == 1


@pytest.mark.parametrize("axis", COST_AXES)
def test_everything_lies_inside_the_picture(records, axis):
    plot = draw_plot(summarize(records), axis)
    assert plot is not None
    for node in parsed(plot.svg).iter():
        for attribute, limit in (("x", WIDTH), ("cx", WIDTH), ("y", HEIGHT), ("cy", HEIGHT)):
            if attribute in node.attrib:
                assert 0 <= number(node, attribute) <= limit


def test_order_of_points_follows_the_values(records):
    summary = summarize(records)
    plot = draw_plot(summary, "train_step_seconds")
    assert plot is not None
    positions = points(plot.svg)
    by_cost = sorted(summary.learned, key=lambda m: m.records[0].train_step_seconds or 0.0)
    assert [positions[m.method][0] for m in by_cost] == sorted(x for x, _ in positions.values())
    by_quality = summary.learned
    assert [positions[m.method][1] for m in by_quality] == sorted(y for _, y in positions.values())


def test_zero_has_a_place_on_a_log_axis(records):
    plot = draw_plot(summarize(records), "trainable_parameters")
    assert plot is not None
    assert "log scale" in plot.svg
    positions = points(plot.svg)
    zero = positions.pop("head_only")[0]
    assert all(x > zero + 15 for x, _ in positions.values())
    assert "0" in [node.text for node in with_class(plot.svg, "tick")]


def test_nothing_to_draw(records):
    floors_only = summarize(records[:3])
    assert draw_plot(floors_only, "train_step_seconds") is None
    assert draw_plot(floors_only, "bytes_per_item") is not None


def test_one_method_alone_can_be_drawn(records):
    summary = summarize(records[-1:])
    for axis in COST_AXES:
        plot = draw_plot(summary, axis)
        assert plot is not None and "nan" not in plot.svg


def test_names_are_escaped(records):
    evil = dataclasses.replace(records[-1], method="<script>&\"'")
    plot = draw_plot(summarize([*records, evil]), "peak_bytes")
    assert plot is not None
    assert "<script" not in plot.svg
    assert "<script>&\"'" in {node.text for node in with_class(plot.svg, "name")}


@pytest.mark.parametrize(("low", "high"), [(0.003, 0.2), (1e3, 3e9), (350.0, 2000.0), (5.0, 6.0)])
@pytest.mark.parametrize("log", [True, False])
def test_ticks_are_round_and_within_range(low, high, log):
    scale = Scale(low, high, 0, 100, log=log)
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)
    assert all(re.fullmatch(r"[1-9](\.\d{1,2})?e[+-]\d+", f"{tick:.2e}") for tick in ticks)
    assert scale(low) == pytest.approx(0) and scale(high) == pytest.approx(100)
