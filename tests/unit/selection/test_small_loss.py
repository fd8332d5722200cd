"""Small-loss cleaning on shuffled captions, and the losses that go with it."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.selection import (
    clean_probability,
    co_divide,
    filter_by_loss,
    pair_losses,
    rectified_labels,
    soft_correspondence_loss,
    soft_margin,
    soft_targets,
)
from erel_jax.selection.soft_correspondence import soft_correspondence_loss as loss_of


def auroc(clean_scores, noisy_scores):
    """Share of (clean, noisy) pairs in which the clean one scores higher; ties count half."""
    difference = clean_scores[:, None] - noisy_scores[None, :]
    return np.mean(difference > 0) + 0.5 * np.mean(difference == 0)


def _shuffled(share, count=800, width=24):
    """Good embeddings of pairs, a share of whose captions changed places; (queries, items, which are wrong)."""
    draw = np.random.default_rng(0)
    meaning = draw.normal(size=(count, width))
    queries, items = (meaning + 0.6 * draw.normal(size=(count, width)) for _ in range(2))
    chosen = np.flatnonzero(draw.random(count) < share)
    items[chosen] = items[np.roll(chosen, 1)]
    return queries.astype(np.float32), items.astype(np.float32), np.isin(np.arange(count), chosen)


@pytest.mark.parametrize("kind", ["gaussian", "beta"])
@pytest.mark.parametrize("share", [0.2, 0.4, 0.5])
def test_shuffled_captions_are_found(kind, share):
    queries, items, wrong = _shuffled(share)
    found = pair_losses(queries, items, rows=200)
    probability = clean_probability(found, kind)
    assert auroc(probability[~wrong], probability[wrong]) >= 0.9
    outcome = filter_by_loss(found, kind=kind)
    assert np.mean(np.isin(np.arange(len(wrong)), outcome.removed) == wrong) >= 0.9
    assert outcome.counts() == {"mismatched": len(outcome.removed)}


def test_pair_losses_equal_the_loss_of_each_block():
    queries, items, _ = _shuffled(0, 25, 6)
    found = pair_losses(queries, items, rows=10, log_scale=1.0)
    for block in (slice(0, 10), slice(10, 20)):
        expected = losses.symmetric_info_nce(jnp.asarray(queries[block]), jnp.asarray(items[block]), 1.0)
        np.testing.assert_allclose(found[block].mean(), expected, rtol=1e-5)
    last = pair_losses(queries[15:], items[15:], rows=10, log_scale=1.0)
    np.testing.assert_allclose(found[20:], last[5:], rtol=1e-6)
    stream = pair_losses(lambda: iter(np.array_split(queries, 4)), items, rows=10, log_scale=1.0)
    np.testing.assert_array_equal(stream, found)


def test_groups_are_no_negatives():
    queries, items, _ = _shuffled(0, 8, 6)
    group = np.array([0, 0, 1, 2, -1, -1, 3, 4])
    found = pair_losses(queries, items, group=group, rows=8, log_scale=1.0)
    expected = losses.symmetric_info_nce(
        jnp.asarray(queries), jnp.asarray(items), 1.0, group=jnp.asarray(group, jnp.int32)
    )
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-5)


def test_peers_judge_each_other():
    first, second = np.array([0.0, 0.1, 0.9, 1.0, 0.05]), np.array([1.0, 0.1, 0.9, 0.0, 0.05])
    for_first, for_second = co_divide(first, second)
    assert for_first.removed.tolist() == [0, 2]
    assert for_second.removed.tolist() == [2, 3]
    with pytest.raises(DataError, match="5 and 4 losses"):
        co_divide(first, second[:4])


def test_targets_and_loss_by_hand_and_at_full_weight():
    teacher = jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0]]))
    targets = soft_targets(jnp.array([0.5, 1.0]), teacher)
    np.testing.assert_allclose(targets, [[0.625, 0.375], [0.0, 1.0]], rtol=1e-6)
    side = jnp.eye(2)
    value = jax.jit(soft_correspondence_loss)(side, side, jnp.log(jnp.log(2.0)), jnp.array([0.5, 1.0]), teacher)
    good, bad = np.log(2 / 3), np.log(1 / 3)
    there = [0.625 * good + 0.375 * bad, good]
    back = [0.75 * good + 0.25 * bad, good]
    np.testing.assert_allclose(value, -0.5 * (np.mean(there) + np.mean(back)), rtol=1e-5)
    queries, items = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4)), jnp.float32)
    arguments = (queries, items, jnp.float32(1.5))
    ours, slope = jax.value_and_grad(loss_of)(*arguments, jnp.ones(6), jnp.zeros((6, 6)))
    theirs, expected = jax.value_and_grad(losses.symmetric_info_nce)(*arguments)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_labels_and_margins_by_hand():
    labels = rectified_labels(jnp.array([0.8, 0.1]), jnp.array([0.5, 0.5]), jnp.array([True, False]))
    np.testing.assert_allclose(labels, [0.9, 0.5], rtol=1e-6)
    np.testing.assert_allclose(
        soft_margin(0.2, jnp.array([0.0, 1.0, 0.5])), [0, 0.2, 0.2 * (10**0.5 - 1) / 9], rtol=1e-5
    )


def test_bad_input():
    queries, items, _ = _shuffled(0, 8, 6)
    with pytest.raises(ConfigError, match="width 6 and items 5"):
        pair_losses(queries, items[:, :5])
    with pytest.raises(DataError, match="different numbers of rows"):
        pair_losses(queries, items[:7])
    with pytest.raises(DataError, match="8 queries and more items"):
        pair_losses(queries, np.concatenate([items, items]), rows=4)
    with pytest.raises(DataError, match="7 group ids"):
        pair_losses(queries, items, group=np.zeros(7, int))
    with pytest.raises(ConfigError, match="blocks of one pair"):
        pair_losses(queries[:1], items[:1])
    with pytest.raises(ConfigError, match=r"group ids are object\[8\], first odd ones at \[2\]"):
        pair_losses(queries, items, group=cast(Any, [0, 1, None, 3, 4, 5, 6, 7]))
    for temperature in (0.0, -1.0, np.nan):
        with np.errstate(all="ignore"), pytest.raises(ConfigError, match=r"log_scale is .*temperature above 0"):
            pair_losses(queries, items, log_scale=float(-np.log(np.float64(temperature))))
    queries[3, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"queries: .* first rows \[3\]"):
        pair_losses(queries, items)
    with pytest.raises(ConfigError, match="threshold=1"):
        filter_by_loss(np.arange(5.0), threshold=1)
    with pytest.raises(ConfigError, match=r"expected \[B\] and"):
        soft_targets(jnp.ones(3), jnp.ones((3, 2)))
    with pytest.raises(ConfigError, match=r"expected \[B\] each"):
        rectified_labels(jnp.ones(3), jnp.ones(2), jnp.ones(3, bool))
    for margin in (0.0, -0.2, float("nan")):
        with pytest.raises(ConfigError, match=f"margin is {margin}"):
            soft_margin(margin, jnp.ones(3))


def test_losses_without_anything_to_tell_are_refused():
    queries, items, _ = _shuffled(0, 8, 6)
    alone = pair_losses(queries, items, group=np.zeros(8, int))
    np.testing.assert_allclose(alone, np.zeros(8), atol=1e-6)
    with pytest.raises(DataError, match="nothing tells clean pairs from mismatched"):
        filter_by_loss(alone)
    with pytest.raises(DataError, match="would remove all 5 rows"):
        filter_by_loss(np.arange(5.0), least_share=0.999, threshold=0.9999)


def test_large_ids_stay_apart():
    queries, items, _ = _shuffled(0, 8, 6)
    ids = np.arange(8) * 2**32
    np.testing.assert_array_equal(pair_losses(queries, items, group=ids), pair_losses(queries, items))


def test_pairs_that_are_all_doubted_learn_from_the_teacher_alone():
    side = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    value, slope = jax.value_and_grad(soft_correspondence_loss)(side, side, 1.0, jnp.zeros(4), jnp.eye(4))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
