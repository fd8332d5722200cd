"""InfoNCE with hard negatives and masks, margin and triplet losses: by hand and against NumPy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.errors import ConfigError

RNG = np.random.default_rng(0)
QUERIES, ITEMS = RNG.normal(size=(2, 7, 5)).astype(np.float32)
MINED = RNG.normal(size=(7, 2, 5)).astype(np.float32)
GROUPS = np.array([0, 1, 0, 2, 3, 3, 4], np.int32)


def run(loss, *arguments, **options):
    """The loss of arrays, compiled quickly."""
    compiled = jax.jit(partial(loss, **options), compiler_options={"xla_backend_optimization_level": 0})
    return compiled(*arguments)


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_hard_negatives_by_hand():
    """Orthogonal pairs at scale log 2: own logit log 2, other item 0, the two hard negatives 0 and -log 2."""
    side = jnp.eye(3)[:2]
    mined = jnp.stack([jnp.eye(3)[2:], -jnp.eye(3)[:1]])
    expected = (math.log((2 + 1 + 1 + 0.5) / 2) + math.log((2 + 1 + 1 + 1) / 2)) / 2
    loss = run(losses.info_nce, side, side, math.log(math.log(2)), hard_negatives=mined)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_hard_negatives_and_masks_against_numpy():
    excluded = RNG.random((7, 21)) < 0.3
    scale, q, k, mined = 4.0, _unit(QUERIES), _unit(ITEMS), _unit(MINED)
    total = 0.0
    for row in range(7):
        logits = [scale * q[row] @ k[row]]
        for other in range(7):
            if other != row and GROUPS[other] != GROUPS[row] and not excluded[row, other]:
                logits.append(scale * q[row] @ k[other])
            for h in range(2):
                of_group = other != row and GROUPS[other] == GROUPS[row]
                if not of_group and not excluded[row, 7 + 2 * other + h]:
                    logits.append(scale * q[row] @ mined[other, h])
        total += math.log(np.exp(logits).sum()) - logits[0]
    loss = jax.jit(losses.info_nce)(
        QUERIES, ITEMS, math.log(scale), group=GROUPS, hard_negatives=MINED, excluded=excluded
    )
    np.testing.assert_allclose(loss, total / 7, rtol=1e-5)


def test_false_negatives_are_those_near_the_positive():
    queries = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    items = np.array([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], np.float32)
    # Cosines: row 0 .8 0 -.6, row 1 .6 1 .8, row 2 .8 0 -.6 (own -.6, bound -.63 at 95 %).
    found = run(losses.false_negatives, queries, items)
    np.testing.assert_array_equal(found, [[True, False, False], [False, True, False], [True, True, True]])
    looser = run(losses.false_negatives, queries, items, ratio=0.79)
    np.testing.assert_array_equal(looser[1], [False, True, True])
    mined = run(losses.false_negatives, queries, items, hard_negatives=jnp.asarray(queries[:, None]))
    np.testing.assert_array_equal(mined[:, 3:], [[True, False, True], [False, True, False], [True, True, True]])
    assert run(losses.info_nce, queries, items, 1.0, excluded=found) < run(losses.info_nce, queries, items, 1.0)


@pytest.mark.parametrize("hardest", [False, True])
def test_margin_against_numpy(hardest):
    cosines, total = _unit(QUERIES) @ _unit(ITEMS).T, 0.0
    for scores in (cosines, cosines.T):
        for row in range(7):
            hinges = [max(0.0, 0.3 - scores[row, row] + scores[row, j]) for j in range(7) if GROUPS[j] != GROUPS[row]]
            total += max(hinges) if hardest else sum(hinges)
    loss = run(losses.margin_loss, QUERIES, ITEMS, margin=0.3, hardest=hardest, group=GROUPS)
    np.testing.assert_allclose(loss, total / 14, rtol=1e-5)


def test_margin_and_triplet_by_hand():
    side = jnp.eye(2)
    np.testing.assert_allclose(run(losses.margin_loss, side, side[::-1], margin=0.5), 1.5, rtol=1e-6)
    np.testing.assert_allclose(run(losses.margin_loss, side, side, margin=0.5), 0.0, atol=1e-6)
    np.testing.assert_allclose(run(losses.triplet_loss, side, side, side[::-1], margin=1.25), 0.25, rtol=1e-6)
    np.testing.assert_allclose(run(losses.triplet_loss, side, side[::-1], side, margin=0.25), 1.25, rtol=1e-6)


def test_semi_hard_mining_by_hand():
    """Cosines of query 0: own .6, others .8 (nearer), .5 (semi-hard) and 0."""
    items = np.array([[0.6, 0.8], [0.8, 0.6], [0.5, -math.sqrt(0.75)], [0.0, 1.0]], np.float32)
    queries = np.array([[1, 0], [-0.6, 0.8], [0.5, -math.sqrt(0.75)], [0, 1]], np.float32)
    cosines = queries @ items.T
    rows = []
    for row in range(4):
        nearer = [c for j, c in enumerate(cosines[row]) if j != row and c < cosines[row, row]]
        chosen = max(nearer) if nearer else min(c for j, c in enumerate(cosines[row]) if j != row)
        rows.append(max(0.0, 0.2 - cosines[row, row] + chosen))
    np.testing.assert_allclose(rows[0], 0.1, rtol=1e-5)
    np.testing.assert_allclose(run(losses.semi_hard_triplet_loss, queries, items), np.mean(rows), rtol=1e-5)


def test_semi_hard_mining_where_all_are_nearer_takes_the_least_near():
    queries, items = np.array([[1, 0], [0, 1]], np.float32), np.array([[-1, 0], [1, 0]], np.float32)
    # Query 0: own -1, the only other 1. Query 1: own 0, other 0, which is not less similar.
    np.testing.assert_allclose(
        run(losses.semi_hard_triplet_loss, queries, items, margin=0.5), (2.5 + 0.5) / 2, rtol=1e-6
    )


def test_rows_without_a_negative_count_for_nothing():
    side = jnp.eye(3)
    assert run(losses.semi_hard_triplet_loss, side, -side, group=jnp.zeros(3, jnp.int32)) == 0.0
    assert run(losses.margin_loss, side, -side, group=jnp.zeros(3, jnp.int32)) == 0.0
    two = run(losses.semi_hard_triplet_loss, side[:2], side[:2], margin=1.5, group=jnp.array([0, 1]))
    np.testing.assert_allclose(two, 0.5, rtol=1e-6)


def test_bad_arguments():
    side = jnp.eye(3)
    for bad in (
        lambda: losses.margin_loss(side, side, margin=0.0),
        lambda: losses.triplet_loss(side, side, side, margin=-1.0),
        lambda: losses.semi_hard_triplet_loss(side, side, margin=math.nan),
    ):
        with pytest.raises(ConfigError, match="margin is"):
            bad()
    with pytest.raises(ConfigError, match="ratio is"):
        losses.false_negatives(side, side, ratio=0.0)
    for shape in ((3, 2, 6), (2, 2, 3)):
        with pytest.raises(ConfigError, match=r"hard_negatives have shape .*, expected \[3, H, 3\]"):
            losses.false_negatives(side, side, hard_negatives=jnp.zeros(shape))
    with pytest.raises(ConfigError, match="as anchors"):
        losses.triplet_loss(side, side, jnp.eye(3)[:2])
    with pytest.raises(ConfigError, match=r"expected \[3, H, 3\]"):
        losses.info_nce(side, side, 0.0, hard_negatives=side)
    with pytest.raises(ConfigError, match=r"expected bool\[3, 3\]"):
        losses.info_nce(side, side, 0.0, excluded=jnp.zeros((3, 4), bool))
