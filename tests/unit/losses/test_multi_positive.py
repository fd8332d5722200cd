"""Multi-positive InfoNCE against hand-computed values and a NumPy version."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.errors import ConfigError

one_way = jax.jit(losses.multi_positive_info_nce)
symmetric = jax.jit(losses.symmetric_multi_positive_info_nce)


def _reference(queries, items, scale, groups):
    queries, items = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, items))
    total = 0.0
    for row in range(len(queries)):
        logits = scale * (items @ queries[row])
        positives = [j for j in range(len(items)) if groups[j] == groups[row]]
        total += np.mean([math.log(np.exp(logits).sum()) - logits[j] for j in positives])
    return total / len(queries)


def test_by_hand():
    """Rows 0 and 1 say the same: both columns are right, and each competes with the other and with column 2."""
    side = jnp.eye(3)[jnp.array([0, 0, 1])]
    group = jnp.array([5, 5, 6])
    # Row 0: logits log 2, log 2, 0, so both positives have 2/5. Row 2: logits 0, 0, log 2, so 2/4.
    expected = (2 * math.log(5 / 2) + math.log(4 / 2)) / 3
    np.testing.assert_allclose(one_way(side, side, math.log(math.log(2)), group=group), expected, rtol=1e-6)
    np.testing.assert_allclose(symmetric(side, side, math.log(math.log(2)), group=group), expected, rtol=1e-6)


def test_equals_numpy_and_reduces_to_info_nce():
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(2, 7, 5)).astype(np.float32)
    groups = np.array([0, 1, 0, 2, 3, 3, 3], np.int32)
    forward, backward = (_reference(a, b, 4.0, groups) for a, b in ((queries, items), (items, queries)))
    scale = jnp.log(4.0)
    np.testing.assert_allclose(one_way(queries, items, scale, group=groups), forward, rtol=1e-5)
    np.testing.assert_allclose(symmetric(queries, items, scale, group=groups), (forward + backward) / 2, rtol=1e-5)
    alone = symmetric(queries, items, scale, group=np.arange(7, dtype=np.int32))
    np.testing.assert_allclose(alone, losses.symmetric_info_nce(queries, items, scale), rtol=1e-6)


def test_negative_ids_are_groups_of_their_own():
    rng = np.random.default_rng(1)
    queries, items = rng.normal(size=(2, 4, 5)).astype(np.float32)
    unknown = one_way(queries, items, jnp.log(4.0), group=np.array([-1, -1, 2, -1], np.int32))
    np.testing.assert_allclose(
        unknown, one_way(queries, items, jnp.log(4.0), group=np.array([0, 1, 2, 3], np.int32)), rtol=1e-6
    )


def test_group_ids_are_required():
    side = jnp.eye(3)
    with pytest.raises(ConfigError, match="group is missing"):
        losses.multi_positive_info_nce(side, side, 0.0, group=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"expected int32\[3\]"):
        losses.multi_positive_info_nce(side, side, 0.0, group=jnp.zeros(4, jnp.int32))
    with pytest.raises(ConfigError, match=r"expected int32\[3\]"):
        losses.multi_positive_info_nce(side, side, 0.0, group=jnp.zeros(3))
