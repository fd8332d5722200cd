"""Counted ranks against sorting, under both tie rules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.metrics.ranking import (
    UNRANKED,
    Ranks,
    hit_rate,
    mean_reciprocal_rank,
    ndcg,
    rank_by_embeddings,
    rank_by_scores,
    ranking_metrics,
)

USERS, ITEMS, SEEN = 23, 40, 6


def _by_sorting(scores, targets, seen):
    """Places in a sorted list without seen items: by id among equals, and first among equals."""
    by_id, favorable = [], []
    for row, target, hidden in zip(scores, targets, seen, strict=True):
        if target in hidden:
            by_id.append(UNRANKED)
            favorable.append(UNRANKED)
            continue
        items = [item for item in range(1, len(row) + 1) if item not in hidden]
        by_id.append(1 + sorted(items, key=lambda item: (-row[item - 1], item)).index(target))
        order = sorted(items, key=lambda item: (-row[item - 1], item != target))
        favorable.append(1 + order.index(target))
    return np.array(favorable), np.array(by_id)


def _problem(seed, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels, (USERS, ITEMS)).astype(np.float32)
    targets = rng.integers(1, ITEMS + 1, USERS).astype(np.int32)
    seen = rng.integers(0, ITEMS + 1, (USERS, SEEN)).astype(np.int32)
    seen[:, 1] = seen[:, 0]  # repeats count once
    seen[3, 2] = targets[3]
    return scores, targets, seen


@pytest.mark.parametrize("levels", [1, 3, 10**6])
@pytest.mark.parametrize("block_size", [5, 64])
def test_counting_equals_sorting(levels, block_size):
    scores, targets, seen = _problem(levels, levels)
    rows = np.arange(USERS, dtype=np.int32)[:, None]
    ranks = rank_by_scores(lambda block: scores[block[:, 0]], rows, targets, seen, block_size=block_size)
    favorable, by_id = _by_sorting(scores, targets, seen)
    np.testing.assert_array_equal(ranks.by_id, by_id)
    np.testing.assert_array_equal(ranks.favorable, favorable)
    assert ranks.by_id[3] == UNRANKED


def test_embeddings_give_the_ranks_of_their_products():
    rng = np.random.default_rng(0)
    # Small integers: products are exact and many scores tie.
    users = rng.integers(-2, 3, (USERS, 4)).astype(np.float32)
    items = rng.integers(-2, 3, (ITEMS, 4)).astype(np.float32)
    _, targets, seen = _problem(1, 2)
    ranks = rank_by_embeddings(users, items, targets, seen, block_size=8)
    favorable, by_id = _by_sorting(users @ items.T, targets, seen)
    np.testing.assert_array_equal(ranks.favorable, favorable)
    np.testing.assert_array_equal(ranks.by_id, by_id)


def test_users_spread_over_devices_get_the_same_ranks():
    rng = np.random.default_rng(0)
    users = rng.normal(size=(64, 4)).astype(np.float32)
    items = rng.normal(size=(ITEMS, 4)).astype(np.float32)
    targets = rng.integers(1, ITEMS + 1, 64).astype(np.int32)
    seen = rng.integers(0, ITEMS + 1, (64, SEEN)).astype(np.int32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put(users, jax.sharding.NamedSharding(mesh, jax.P("data")))
    one, many = (rank_by_embeddings(side, items, targets, seen, block_size=16) for side in (users, spread))
    np.testing.assert_array_equal(one.by_id, many.by_id)


def test_a_repeated_target_is_never_a_hit():
    scores = np.array([[9.0, 1.0, 0.0]], np.float32)
    targets, seen = np.array([1], np.int32), np.array([[0, 1, 2]], np.int32)
    ranks = rank_by_scores(lambda _: scores, seen, targets, seen)
    assert hit_rate(ranks.favorable, 3) == ndcg(ranks.favorable, 3) == mean_reciprocal_rank(ranks.favorable) == 0.0


def test_metrics_by_hand():
    favorable = np.array([1, 3, 10, 11, UNRANKED], np.int32)
    strict = np.array([1, 3, 11, 11, UNRANKED], np.int32)
    metrics = ranking_metrics(Ranks(favorable=favorable, by_id=strict), ks=(10,))
    assert metrics["hr@10"] == pytest.approx(3 / 5)
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(11)) / 5)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11) / 5)
    assert metrics["hr@10_ties_by_id"] == pytest.approx(2 / 5)
    assert metrics["ndcg@10_ties_by_id"] == pytest.approx(1.5 / 5)
    assert metrics["mrr_ties_by_id"] == pytest.approx((1 + 1 / 3 + 2 / 11) / 5)


def test_constant_scores_show_what_the_tie_rules_mean():
    _, targets, _ = _problem(0, 1)
    seen = np.zeros((USERS, 1), np.int32)
    ranks = rank_by_scores(lambda block: np.zeros((len(block), ITEMS), np.float32), seen, targets, seen)
    assert (ranks.favorable == 1).all()
    np.testing.assert_array_equal(ranks.by_id, targets)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores, targets, seen = _problem(0, 3)
    scores[7, 7] = bad
    with pytest.raises(NonFiniteError, match="1 scores are NaN or infinite"):
        rank_by_scores(lambda block: scores[: len(block)], seen, targets, seen, block_size=USERS)
    with pytest.raises(NonFiniteError, match="scores are NaN or infinite"):
        rank_by_embeddings(jnp.full((USERS, 2), bad), jnp.ones((ITEMS, 2)), targets, seen)


def test_numbers_out_of_range_are_refused():
    scores, targets, seen = _problem(0, 3)

    def rank(targets=targets, seen=seen, **options):
        return rank_by_scores(lambda block: scores[: len(block)], seen, targets, seen, **options)

    for targets_, seen_ in (
        (targets * 0, seen),
        (targets + ITEMS, seen),
        (targets, seen + ITEMS + 1),
        (targets, -seen),
    ):
        with pytest.raises(DataError, match=r"expected targets in 1\.\.40 and seen items in 0\.\.40"):
            rank(targets=targets_, seen=seen_)
    with pytest.raises(DataError, match="expected the same number of each"):
        rank(targets=targets[:-1])
    with pytest.raises(ConfigError, match="block_size=0"):
        rank(block_size=0)
    with pytest.raises(ConfigError, match="k=0"):
        hit_rate(targets, 0)
