"""BPR, full and sampled softmax, ListNet and Matryoshka: by hand and against NumPy."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.errors import ConfigError

RNG = np.random.default_rng(0)


def run(loss, *arguments, **options):
    """The loss of arrays, compiled quickly."""
    compiled = jax.jit(partial(loss, **options), compiler_options={"xla_backend_optimization_level": 0})
    return compiled(*arguments)


def test_bpr_by_hand_and_with_a_mask():
    positive, negative = jnp.array([math.log(3), 0.0]), jnp.array([[0.0, math.log(3)], [0.0, 50.0]])
    expected = [math.log(4 / 3), math.log(2), math.log(2), 50.0]
    np.testing.assert_allclose(run(losses.bpr_loss, positive, negative), np.mean(expected), rtol=1e-6)
    mask = jnp.array([[True, True], [True, False]])
    np.testing.assert_allclose(run(losses.bpr_loss, positive, negative, mask=mask), np.mean(expected[:3]), rtol=1e-6)
    assert run(losses.bpr_loss, positive, negative, mask=jnp.zeros((2, 2), bool)) == 0.0


def test_full_softmax_against_numpy_with_padding_rows():
    states, table = RNG.normal(size=(5, 4)).astype(np.float32), RNG.normal(size=(6, 4)).astype(np.float32)
    targets = np.array([2, -1, 5, 0, -1], np.int32)
    prior = np.log(RNG.dirichlet(np.ones(6))).astype(np.float32)
    for log_popularity in (None, prior):
        logits = states @ table.T + (0 if log_popularity is None else log_popularity)
        rows = [math.log(np.exp(logits[i]).sum()) - logits[i, targets[i]] for i in (0, 2, 3)]
        loss = jax.jit(losses.full_softmax)(states, table, targets, log_popularity=log_popularity)
        np.testing.assert_allclose(loss, np.mean(rows), rtol=1e-5)
    assert run(losses.full_softmax, states, table, np.full(5, -1, np.int32)) == 0.0
    assert np.isnan(run(losses.full_softmax, states, table, np.array([2, 6, 5, 0, -1], np.int32)))


def test_nan_where_nothing_counts_reaches_no_gradient():
    """NaN in a padding row, and an impossible item 0, whose popularity such a row would look up."""
    draw = np.random.default_rng(1)
    states, table = (draw.normal(size=shape).astype(np.float32) for shape in ((3, 4), (6, 4)))
    targets, ids, prior = jnp.array([2, -1, 4]), jnp.array([3, 5]), jnp.log(jnp.arange(6.0))
    bad, picked = (jnp.asarray(rows).at[1].set(jnp.nan) for rows in (states, table[:3]))

    def full(states, table):
        return losses.full_softmax(states, table, targets, log_popularity=prior)

    def sampled(states, table):
        given: dict[str, Any] = {"targets": targets, "sampled_ids": ids, "log_popularity": prior}
        return losses.sampled_softmax(states, picked, table[ids], **given)

    for loss in (full, sampled):
        slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))(bad, jnp.asarray(table))
        assert all(np.isfinite(slope).all() for slope in slopes)
        assert np.abs(slopes[1]).max() > 0 and not np.asarray(slopes[0])[1].any()


@pytest.mark.parametrize(
    "loss",
    [
        lambda s: losses.bpr_loss(s[:, 0], s[:, :2], mask=jnp.array([[True, False], [True, True], [False, True]])),
        lambda s: losses.listnet_loss(s, jnp.array([[1.0, 0, 0], [0, 0, 0], [1, 0, 0]]), mask=jnp.isfinite(s)),
        lambda s: losses.listnet_loss(s, jnp.array([[0.0, 0, 0], [0, 1, 0], [1, 0, 0]])),
    ],
)
def test_masked_nan_has_no_slope(loss):
    scores = jnp.array([[0.5, jnp.nan, 0.2], [0.1, 0.3, 0.7], [0.2, 0.4, 0.1]])
    value, slope = jax.value_and_grad(loss)(scores)
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_sampled_ids_that_are_no_items_are_nan():
    states = jnp.eye(3)
    given: dict[str, Any] = {"targets": jnp.arange(3), "log_popularity": jnp.zeros(3)}
    for ids in ([0, 1, -1], [0, 1, 3]):
        assert np.isnan(losses.sampled_softmax(states, states, states, sampled_ids=jnp.array(ids), **given))


def test_full_softmax_by_hand():
    loss = run(losses.full_softmax, jnp.array([[math.log(2)]]), jnp.array([[1.0], [0.0], [0.0]]), jnp.array([0]))
    np.testing.assert_allclose(loss, math.log(4 / 2), rtol=1e-6)


def test_sampled_softmax_against_numpy():
    states, table = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=(9, 3)).astype(np.float32)
    targets, sample = np.array([1, 4, -1, 8], np.int32), np.array([4, 0, 0, 7], np.int32)
    log_q = np.log(RNG.dirichlet(np.ones(9))).astype(np.float32)
    rows = []
    for row in (0, 1, 3):
        own = states[row] @ table[targets[row]] - log_q[targets[row]]
        others = [states[row] @ table[i] - log_q[i] for i in sample if i != targets[row]]
        rows.append(math.log(np.exp([own, *others]).sum()) - own)
    given = {"targets": targets, "sampled_ids": sample}
    loss = run(losses.sampled_softmax, states, table[targets], table[sample], **given, log_popularity=log_q)
    np.testing.assert_allclose(loss, np.mean(rows), rtol=1e-5)
    shifted = run(losses.sampled_softmax, states, table[targets], table[sample], **given, log_popularity=log_q + 3)
    np.testing.assert_allclose(shifted, np.mean(rows), rtol=1e-5)


def test_a_large_sample_stands_for_the_catalog():
    """The mean gradient over samples against that of the full softmax, drawn as the correction says and otherwise."""
    states, table = (
        jnp.asarray(RNG.normal(size=(1, 3)), jnp.float32),
        jnp.asarray(RNG.normal(size=(12, 3)), jnp.float32),
    )
    share, target = RNG.dirichlet(np.full(12, 2.0)), jnp.array([3])
    full = jax.grad(lambda s: losses.full_softmax(s, table, target))(states)
    ids = RNG.choice(12, (16, 2000), p=share).astype(np.int32)

    def mean_gradient(log_popularity):
        def slope(drawn):
            given = {"targets": target, "sampled_ids": drawn, "correct_positive": False}
            loss = partial(losses.sampled_softmax, **given, log_popularity=jnp.asarray(log_popularity))
            embeddings = table[drawn]
            return jax.grad(lambda s: loss(s, table[target], embeddings))(states)

        return jax.jit(lambda ids: jnp.mean(jax.lax.map(slope, ids), axis=0))(ids)

    right = mean_gradient(np.log(share).astype(np.float32))
    wrong = mean_gradient(np.full(12, -math.log(12), np.float32))
    assert np.abs(right - full).max() < 0.02
    assert np.abs(wrong - full).max() > 0.05


def test_listnet_by_hand_and_against_numpy():
    scores, relevance = jnp.array([[math.log(2), 0.0]]), jnp.array([[math.log(3), 0.0]])
    expected = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(3)
    np.testing.assert_allclose(run(losses.listnet_loss, scores, relevance), expected, rtol=1e-6)
    scores = RNG.normal(size=(4, 6)).astype(np.float32)
    relevance = RNG.integers(0, 3, (4, 6)).astype(np.float32)
    relevance[1] = 0
    mask = RNG.random((4, 6)) < 0.7
    mask[:, 0], relevance[[0, 2, 3], 0] = True, 2
    rows = []
    for row in (0, 2, 3):
        gains, logits = np.exp(relevance[row][mask[row]] / 0.5), scores[row][mask[row]]
        rows.append(-(gains / gains.sum()) @ (logits - math.log(np.exp(logits).sum())))
    loss = jax.jit(partial(losses.listnet_loss, temperature=0.5))(scores, relevance, mask=mask)
    np.testing.assert_allclose(loss, np.mean(rows), rtol=1e-5)
    assert run(losses.listnet_loss, scores, 0 * relevance) == 0.0


def test_matryoshka_is_the_weighted_mean_over_prefixes():
    queries, items = RNG.normal(size=(2, 6, 8)).astype(np.float32)
    parts = [run(losses.symmetric_info_nce, queries[:, :k], items[:, :k], 1.0) for k in (8, 4, 2)]
    nested = losses.matryoshka(losses.symmetric_info_nce, (8, 4, 2))
    np.testing.assert_allclose(nested(queries, items, 1.0), np.mean(parts), rtol=1e-6)
    weighted = losses.matryoshka(losses.symmetric_info_nce, (8, 4, 2), weights=(2, 1, 1))
    np.testing.assert_allclose(weighted(queries, items=items, log_scale=1.0), np.mean([parts[0], *parts]), rtol=1e-6)
    chunked = losses.matryoshka(partial(losses.chunked_info_nce, tile_rows=2), (8, 4, 2))
    np.testing.assert_allclose(chunked(queries, items, 1.0), np.mean(parts), rtol=1e-6)


def test_matryoshka_cuts_the_hard_negatives_too():
    queries, items = RNG.normal(size=(2, 4, 8)).astype(np.float32)
    mined = RNG.normal(size=(4, 2, 8)).astype(np.float32)
    nested = losses.matryoshka(losses.info_nce, (3,))(queries, items, 1.0, hard_negatives=mined)
    cut = run(losses.info_nce, queries[:, :3], items[:, :3], 1.0, hard_negatives=mined[..., :3])
    np.testing.assert_allclose(nested, cut, rtol=1e-6)


@pytest.mark.parametrize(
    ("widths", "weights"),
    [
        ((), None),
        ((4, 4), None),
        ((0,), None),
        ((4, 2), (1,)),
        ((4,), (-1,)),
        ((4,), (0,)),
        ((4, 2), (1, math.inf)),
        ((2.0,), None),
        (3, None),
    ],
)
def test_bad_widths(widths, weights):
    with pytest.raises(ConfigError, match="got w"):
        losses.matryoshka(losses.symmetric_info_nce, widths, weights=weights)


def test_bad_arguments():
    side = jnp.eye(3)
    with pytest.raises(ConfigError, match="got width 4 for embeddings of width 3"):
        losses.matryoshka(losses.symmetric_info_nce, (4,))(side, side, 0.0)
    with pytest.raises(ConfigError, match="none of the embeddings"):
        losses.matryoshka(losses.bpr_loss, (2,))(jnp.zeros(3), side)
    with pytest.raises(ConfigError, match=r"expected \[B\], \[B, N\]"):
        losses.bpr_loss(side, side)
    with pytest.raises(ConfigError, match=r"expected \[3, N\] both"):
        losses.bpr_loss(jnp.zeros(3), side, mask=jnp.zeros((3, 2), bool))
    with pytest.raises(ConfigError, match="targets are float32"):
        losses.full_softmax(side, side, jnp.zeros(3))
    with pytest.raises(ConfigError, match="log_popularity has shape"):
        losses.full_softmax(side, side, jnp.zeros(3, jnp.int32), log_popularity=jnp.zeros(2))
    with pytest.raises(ConfigError, match="one id per sampled embedding"):
        losses.sampled_softmax(side, side, side, targets=jnp.zeros(3, jnp.int32), sampled_ids=jnp.zeros(2, jnp.int32))
    with pytest.raises(ConfigError, match="positive_embeddings have shape"):
        losses.sampled_softmax(
            side, side[:2], side, targets=jnp.zeros(3, jnp.int32), sampled_ids=jnp.zeros(3, jnp.int32)
        )
    for popularity in (None, jnp.zeros(3)):
        given: dict[str, Any] = {"targets": jnp.arange(3), "log_popularity": popularity}
        with pytest.raises(ConfigError, match="sampled_ids are float32"):
            losses.sampled_softmax(side, side, side, sampled_ids=jnp.zeros(3), **given)
    given = {"targets": jnp.arange(3), "sampled_ids": jnp.arange(3)}
    with pytest.raises(ConfigError, match=r"log_popularity has shape \(3, 2\)"):
        losses.sampled_softmax(side, side, side, **given, log_popularity=jnp.zeros((3, 2)))
    with pytest.raises(ConfigError, match="sampled_embeddings have width 2 and user_states 3"):
        losses.sampled_softmax(side, side, side[:, :2], **given)
    with pytest.raises(ConfigError, match="item_embeddings have width 2 and user_states 3"):
        losses.full_softmax(side, side[:, :2], jnp.arange(3))
    with pytest.raises(ConfigError, match="mask is float32, expected bool"):
        losses.listnet_loss(side, side, mask=side)
    with pytest.raises(ConfigError, match="mask is float32, expected bool"):
        losses.bpr_loss(jnp.zeros(3), side, mask=-side)
    with pytest.raises(ConfigError, match="the same"):
        losses.listnet_loss(side, jnp.zeros((3, 2)))
    with pytest.raises(ConfigError, match="temperature is 0"):
        losses.listnet_loss(side, side, temperature=0)
