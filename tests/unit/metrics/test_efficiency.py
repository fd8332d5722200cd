"""TPME, PSCP, Pareto front and hypervolume against published vectors and brute force."""

import itertools
import math
import random

import pytest

from erel_jax.errors import ConfigError
from erel_jax.metrics.efficiency import (
    CostTriple,
    PscpConstants,
    hypervolume,
    pareto_front,
    pscp,
    set_hash,
    tpme,
)

# LoRA r32, rsLoRA r64, (IA)^3 lr 5e-3, full fine-tuning: seconds, trainable parameters, GB (peft method comparison).
PEFT = [(942, 9_175_040, 20.8), (966, 18_350_080, 21.0), (1060, 630_784, 24.3), (2147, 3_212_749_824, 36.2)]
PEFT_CORRECT_OF_1319 = [631, 677, 600, 622]
# FFT, Adapter, LoRA, BitFit, IISAN uncached, IISAN cached.
IISAN = [
    (443, 195e6, 46.76),
    (354, 5e6, 37.82),
    (378, 0.8e6, 39.07),
    (403, 0.4e6, 36.97),
    (179, 4e6, 8.32),
    (22, 4e6, 3.11),
]


def triples(rows):
    return [CostTriple(*row) for row in rows]


def test_tpme_vectors():
    assert tpme(triples(PEFT)).values == pytest.approx([0.0003, 0.0154, 0.1463, 1.0], abs=5e-5)
    percent = [100 * value for value in tpme(triples(IISAN)).values if value is not None]
    assert percent == pytest.approx([100, 71.51, 75.14, 75.63, 22.34, 0.18], abs=5.1e-3)


def test_tpme_by_hand():
    costs = triples([(10, 0, 2), (20, 10, 6), (15, 5, 4)])
    assert tpme(costs).values == pytest.approx([0, 1, 0.5])
    assert tpme(costs, (1.0, 0.0, 0.0)).values == pytest.approx([0, 1, 0.5])


def test_tpme_equal_costs_give_zero():
    assert tpme(triples([(3, 7, 1), (3, 7, 1)])).values == (0.0, 0.0)
    assert tpme(triples([(3, 7, 1)])).values == (0.0,)
    assert tpme([]).values == ()
    only_memory_differs = tpme(triples([(3, 7, 1), (3, 7, 2)]))
    assert only_memory_differs.values == pytest.approx([0, 0.45])


def test_adding_a_method_changes_scores_and_can_change_the_order():
    # A is slow and small, B is fast and big; an outlier in memory makes B's memory negligible, one in time A's time.
    a, b = (100, 1, 10), (60, 1, 12)
    first, second = tpme(triples([a, b, (50, 1, 13)])).values[:2]
    assert first is not None and second is not None and first > second
    first, second = tpme(triples([a, b, (50, 1, 13), (5000, 1, 9)])).values[:2]
    assert first is not None and second is not None and first < second
    assert tpme(triples([a, b])).set_hash != tpme(triples([a, b, (5000, 1, 9)])).set_hash


def test_unavailable_costs_do_not_enter():
    complete = tpme(triples([(10, 1, 2), (20, 10, 6)]))
    mixed = tpme([*triples([(10, 1, 2), (20, 10, 6)]), CostTriple(1000.0, None, None)])
    assert mixed.values == (*complete.values, None)
    assert mixed.reasons[:2] == (None, None)
    assert mixed.reasons[2] == "TPME needs trainable_parameters, peak_bytes, which is unavailable"
    assert mixed.set_hash == complete.set_hash


def test_set_hash_ignores_order_and_number_type_but_not_settings():
    rows = triples(PEFT)
    assert set_hash(rows) == set_hash(rows[::-1]) == tpme(rows).set_hash
    assert set_hash([CostTriple(1, 2, 3)]) == set_hash([CostTriple(1.0, 2.0, 3.0)])
    hashes = {
        set_hash(rows),
        set_hash(rows, (0.4, 0.2, 0.4)),
        set_hash(rows, scale="log"),
        set_hash(rows, anchors=(CostTriple(0, 0, 0), rows[-1])),
        set_hash(rows[:-1]),
    }
    assert len(hashes) == 5


def test_log_scale_compares_orders_of_magnitude():
    rows = triples([(1, 0, 1), (10, 9, 10), (100, 99, 100)])
    assert tpme(rows, scale="log").values == pytest.approx([0, 0.5, 1])
    with pytest.raises(ConfigError, match="above 0 on the log scale"):
        tpme(triples([(0, 1, 1)]), scale="log")
    with pytest.raises(ConfigError, match="expected 'linear' or 'log'"):
        tpme(rows, scale="square")  # pyright: ignore[reportArgumentType]


def test_anchored_scores_do_not_depend_on_the_set():
    anchors = (CostTriple(0, 0, 0), CostTriple(100, 1000, 10))
    costs = CostTriple(50, 500, 5)
    assert tpme([costs], anchors=anchors).values == pytest.approx([0.5])
    assert tpme([costs, CostTriple(400, 1, 1)], anchors=anchors).values[0] == pytest.approx(0.5)
    assert tpme([CostTriple(200, 2000, 20)], anchors=anchors).values == pytest.approx([2.0])
    with pytest.raises(ConfigError, match="without unavailable costs"):
        tpme([costs], anchors=(CostTriple(0, 0, None), anchors[1]))
    with pytest.raises(ConfigError, match=r"\(cheapest, dearest\)"):
        tpme([costs], anchors=(anchors[1], anchors[0]))


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.5), (-0.1, 0.6, 0.5), (1.0, 0.0)])
def test_tpme_refuses_bad_weights(weights):
    with pytest.raises(ConfigError, match="sum 1"):
        tpme(triples(PEFT), weights)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_cost_triple_refuses_impossible_costs(value):
    with pytest.raises(ConfigError, match="peak_bytes"):
        CostTriple(1.0, 1.0, value)


def test_pscp_vector():
    constants = PscpConstants(beta_flops=0)
    scores = [
        pscp(right / 1319, parameters=parameters, tera_flops=None, gigabytes=gigabytes, constants=constants)
        for right, (_, parameters, gigabytes) in zip(PEFT_CORRECT_OF_1319, PEFT, strict=True)
    ]
    assert scores == pytest.approx([0.3847, 0.4047, 0.3610, 0.0459], abs=5.1e-5)


def test_pscp_by_hand():
    assert pscp(0.8, parameters=5e8, tera_flops=10, gigabytes=94) == pytest.approx(0.1)
    assert pscp(0.8, parameters=0, tera_flops=0, gigabytes=0) == pytest.approx(0.8)
    squared = PscpConstants(beta_parameters=2, beta_flops=0, beta_memory=0)
    assert pscp(0.9, parameters=1e9, tera_flops=None, gigabytes=None, constants=squared) == pytest.approx(0.1)


def test_pscp_unavailable_and_bad_inputs():
    assert pscp(None, parameters=1, tera_flops=1, gigabytes=1) is None
    assert pscp(0.5, parameters=1, tera_flops=None, gigabytes=1) is None
    with pytest.raises(ConfigError, match=r"quality in 0\.\.1"):
        pscp(51.3, parameters=1, tera_flops=1, gigabytes=1)
    with pytest.raises(ConfigError, match="gigabytes=-1"):
        pscp(0.5, parameters=1, tera_flops=1, gigabytes=-1)
    with pytest.raises(ConfigError, match="tera_flops=0"):
        PscpConstants(tera_flops=0)


def brute_force_front(quality, cost):
    points = list(zip(quality, cost, strict=True))
    return tuple(
        not any(q >= p[0] and c <= p[1] and (q, c) != p for q, c in points) for p in points
    )  # (q, c) != p with both >= means better on at least one axis


def test_pareto_front_equals_brute_force_with_ties():
    generator = random.Random(0)
    for _ in range(200):
        size = generator.randint(1, 9)
        quality = [generator.randint(0, 4) / 4 for _ in range(size)]
        cost = [float(generator.randint(0, 4)) for _ in range(size)]
        expected = brute_force_front(quality, cost)
        assert pareto_front(quality, cost) == expected
        assert pareto_front([-q for q in quality], cost, maximize_quality=False) == expected
        assert pareto_front(quality, [-c for c in cost], minimize_cost=False) == expected


def test_pareto_front_leaves_out_the_unavailable():
    assert pareto_front([0.9, 0.5, None], [None, 3.0, 1.0]) == (False, True, False)
    assert pareto_front([], []) == ()
    with pytest.raises(ConfigError, match="2 qualities and 1 costs"):
        pareto_front([1.0, 2.0], [1.0])
    with pytest.raises(ConfigError, match="position 0"):
        pareto_front([math.nan], [1.0])


def test_hypervolume_equals_counting_cells():
    generator = random.Random(1)
    for _ in range(100):
        size = generator.randint(0, 6)
        quality = [float(generator.randint(0, 6)) for _ in range(size)]
        cost = [float(generator.randint(0, 9)) for _ in range(size)]
        cells = sum(
            any(c <= x and q >= y + 1 for q, c in zip(quality, cost, strict=True))
            for x, y in itertools.product(range(8), range(1, 6))
        )
        assert hypervolume(quality, cost, reference_cost=8.0, reference_quality=1.0) == pytest.approx(cells)


def test_hypervolume_refuses_a_bad_reference():
    assert hypervolume([None], [1.0], reference_cost=2.0) == 0.0
    with pytest.raises(ConfigError, match="finite"):
        hypervolume([1.0], [1.0], reference_cost=math.inf)
