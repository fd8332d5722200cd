"""Retrieval metrics against a NumPy version, ir_measures and hand-computed values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.metrics.retrieval import (
    UNRANKED,
    PositiveRanks,
    hit_recall,
    positives_by_group,
    rank_positives,
    recall_at,
    retrieval_metrics,
    two_way_retrieval,
)


def _problem(seed=0, queries=19, items=30, groups=8):
    rng = np.random.default_rng(seed)
    sides = (rng.integers(-2, 3, (count, 3)).astype(np.float32) for count in (queries, items))
    labels = rng.integers(0, groups, queries), rng.integers(0, groups - 1, items)
    return *sides, *labels


def _by_sorting(scores, relevant):
    """For each query the sorted ranks of its right items; score descending, then position ascending."""
    ranks = []
    for row, right in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda item: (-row[item], item))
        ranks.append(sorted(order.index(item) + 1 for item in right))
    return ranks


def test_positives_by_group():
    found = positives_by_group(np.array([5, 7, 9]), np.array([9, 5, 5, 1, 5]))
    np.testing.assert_array_equal(found, [[1, 2, 4], [-1, -1, -1], [0, -1, -1]])


@pytest.mark.parametrize("block_size", [4, 64])
def test_ranks_equal_sorting(block_size):
    queries, items, query_groups, item_groups = _problem()
    positives = positives_by_group(query_groups, item_groups)
    ranks = rank_positives(queries, items, positives, block_size=block_size)
    relevant = [np.flatnonzero(item_groups == group) for group in query_groups]
    expected = _by_sorting(queries @ items.T, relevant)
    for row, count, own in zip(ranks.ranks, ranks.counts, expected, strict=True):
        assert row[:count].tolist() == own
        assert (row[count:] == UNRANKED).all()
    assert (ranks.counts == 0).any(), "a query without right items must be part of the test"


def test_metrics_by_hand():
    ranks = PositiveRanks(
        ranks=np.array([[1, 4], [3, UNRANKED], [UNRANKED, UNRANKED]], np.int32), counts=np.array([2, 1, 0])
    )
    metrics = retrieval_metrics(ranks, ks=(1, 3))
    assert metrics["recall@1"] == pytest.approx(1 / 3)
    assert metrics["recall@3"] == pytest.approx(2 / 3)
    assert metrics["recall_fraction@3"] == pytest.approx((1 / 2 + 1) / 3)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3) / 3)
    assert metrics["ndcg@3"] == pytest.approx((1 / (1 + 1 / math.log2(3)) + 1 / 2) / 3)


@pytest.mark.filterwarnings("ignore:.*removed in Python 3.14:DeprecationWarning")  # ir_measures' parser
def test_equals_ir_measures():
    measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(3)
    queries, items = rng.normal(size=(15, 4)).astype(np.float32), rng.normal(size=(25, 4)).astype(np.float32)
    query_groups, item_groups = rng.integers(0, 6, 15), rng.integers(0, 6, 25)
    ours = retrieval_metrics(rank_positives(queries, items, positives_by_group(query_groups, item_groups)), ks=(3, 10))
    scores = queries @ items.T
    run = {f"q{q}": {f"d{d}": float(scores[q, d]) for d in range(25)} for q in range(15)}
    qrels = {
        f"q{q}": {f"d{d}": 1 for d in np.flatnonzero(item_groups == query_groups[q])}
        for q in range(15)
        if (item_groups == query_groups[q]).any()
    }
    names = {
        "ndcg@3": "nDCG@3",
        "ndcg@10": "nDCG@10",
        "mrr": "RR",
        "recall@3": "Success@3",
        "recall_fraction@10": "R@10",
    }
    wanted = [measures.parse_measure(name) for name in names.values()]
    theirs = measures.calc_aggregate(wanted, qrels, run)
    for (name, _), measure in zip(names.items(), wanted, strict=True):
        assert ours[name] == pytest.approx(theirs[measure] * len(qrels) / 15, abs=1e-6), name


def test_hit_recall_by_hand():
    ranks = PositiveRanks(
        ranks=np.array([[2, 9], [6, 7], [1, UNRANKED], [UNRANKED, UNRANKED]], np.int32), counts=np.array([2, 2, 1, 0])
    )
    assert hit_recall(ranks, ks=(1, 2, 6, 10)) == {
        "hit_recall@1": 1 / 4,
        "hit_recall@2": 2 / 4,
        "hit_recall@6": 3 / 4,
        "hit_recall@10": 3 / 4,
    }
    with pytest.raises(ConfigError, match="k=0"):
        hit_recall(ranks, ks=(0,))


@pytest.mark.filterwarnings("ignore:.*removed in Python 3.14:DeprecationWarning")  # ir_measures' parser
def test_hit_recall_is_success_of_ir_measures():
    measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(8)
    queries, items = rng.normal(size=(40, 4)).astype(np.float32), rng.normal(size=(60, 4)).astype(np.float32)
    positives = positives_by_group(rng.integers(0, 9, 40), rng.integers(0, 9, 60))
    ours = hit_recall(rank_positives(queries, items, positives), ks=(1, 5, 10))
    scores = queries @ items.T
    run = {f"q{q}": {f"d{d}": float(scores[q, d]) for d in range(60)} for q in range(40)}
    qrels = {f"q{q}": {f"d{d}": 1 for d in row if d >= 0} for q, row in enumerate(positives)}
    theirs = measures.calc_aggregate([measures.parse_measure(f"Success@{k}") for k in (1, 5, 10)], qrels, run)
    assert 0 < ours["hit_recall@1"] < ours["hit_recall@10"] < 1
    for measure, value in theirs.items():
        assert ours[f"hit_recall@{measure.params['cutoff']}"] == pytest.approx(value, abs=1e-6)


def test_both_directions_and_their_mean():
    queries = np.eye(3, dtype=np.float32)
    items = np.eye(3, dtype=np.float32)[[0, 0, 2, 1]]
    metrics = two_way_retrieval(queries, items, np.array([0, 1, 2]), np.array([0, 0, 1, 2]), ks=(1,))
    assert metrics["query_to_item/recall@1"] == pytest.approx(1 / 3)
    assert metrics["item_to_query/recall@1"] == pytest.approx(2 / 4)
    assert metrics["recall@1"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_queries_spread_over_devices_get_the_same_ranks():
    rng = np.random.default_rng(5)
    queries, items = rng.normal(size=(32, 4)).astype(np.float32), rng.normal(size=(25, 4)).astype(np.float32)
    positives = positives_by_group(rng.integers(0, 6, 32), rng.integers(0, 6, 25))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put(queries, jax.sharding.NamedSharding(mesh, jax.P("data")))
    one, many = (rank_positives(side, items, positives, block_size=16) for side in (queries, spread))
    np.testing.assert_array_equal(one.ranks, many.ranks)


def test_bad_input_is_refused():
    queries, items, query_groups, item_groups = _problem()
    positives = positives_by_group(query_groups, item_groups)
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        rank_positives(jnp.full(queries.shape, jnp.nan), items, positives)
    with pytest.raises(DataError, match=r"expected \[Q, E\], \[N, E\] and \[Q, P\]"):
        rank_positives(queries, items[:, :2], positives)
    with pytest.raises(DataError, match=r"expected \[Q, E\]"):
        rank_positives(queries[:0], items, positives[:0])
    with pytest.raises(DataError, match=r"expected 0\.\.29"):
        rank_positives(queries, items, positives + 30)
    with pytest.raises(DataError, match="one group per row"):
        two_way_retrieval(queries, items, query_groups[:-1], item_groups)
    with pytest.raises(ConfigError, match="block_size=0"):
        rank_positives(queries, items, positives, block_size=0)
    with pytest.raises(ConfigError, match="k=0"):
        recall_at(PositiveRanks(ranks=np.ones((1, 1), np.int32), counts=np.ones(1, int)), 0)
