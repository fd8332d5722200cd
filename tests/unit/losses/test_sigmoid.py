"""The sigmoid losses against hand-computed values and a NumPy version."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.errors import ConfigError

sigmoid = jax.jit(losses.sigmoid_loss)
grouped = jax.jit(losses.multi_positive_sigmoid_loss)


def _reference(queries, items, scale, bias, groups, positive):
    queries, items = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, items))
    total = 0.0
    for row in range(len(queries)):
        for column in range(len(items)):
            same = groups[row] == groups[column]
            if same and row != column and not positive:
                continue
            sign = 1 if row == column or (same and positive) else -1
            total += math.log1p(math.exp(-sign * (scale * (queries[row] @ items[column]) + bias)))
    return total / len(queries)


def test_by_hand():
    """Two orthogonal pairs, scale log 2 and bias 0: own logits log 2, others 0."""
    side = jnp.eye(2)
    expected = math.log(3 / 2) + math.log(2)
    np.testing.assert_allclose(sigmoid(side, 3 * side, math.log(math.log(2)), 0.0), expected, rtol=1e-6)
    both = grouped(side, side, math.log(math.log(2)), 0.0, group=jnp.array([1, 1]))
    np.testing.assert_allclose(both, math.log(3 / 2) + math.log(2), rtol=1e-6)
    biased = sigmoid(side, side, math.log(math.log(2)), math.log(3))
    np.testing.assert_allclose(biased, math.log(7 / 6) + math.log(4), rtol=1e-6)


def test_equals_numpy_with_and_without_groups():
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(2, 7, 5)).astype(np.float32)
    groups = np.array([0, 1, 0, 2, 3, 3, 3], np.int32)
    arguments = (queries, items, jnp.log(4.0), -1.5)
    plain = _reference(queries, items, 4.0, -1.5, np.arange(7), False)
    np.testing.assert_allclose(sigmoid(*arguments), plain, rtol=1e-5)
    left_out = _reference(queries, items, 4.0, -1.5, groups, False)
    np.testing.assert_allclose(sigmoid(*arguments, group=groups), left_out, rtol=1e-5)
    positive = _reference(queries, items, 4.0, -1.5, groups, True)
    np.testing.assert_allclose(grouped(*arguments, group=groups), positive, rtol=1e-5)
    assert left_out != positive != plain


def test_queries_and_items_may_be_swapped():
    rng = np.random.default_rng(1)
    queries, items = rng.normal(size=(2, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(sigmoid(queries, items, 1.0, -2.0), sigmoid(items, queries, 1.0, -2.0), rtol=1e-6)


def test_a_bias_is_one_number_and_groups_are_required_for_positives():
    side = jnp.eye(3)
    with pytest.raises(ConfigError, match="bias has shape"):
        losses.sigmoid_loss(side, side, 0.0, jnp.zeros(3))
    with pytest.raises(ConfigError, match="group is missing"):
        losses.multi_positive_sigmoid_loss(side, side, 0.0, 0.0, group=None)  # pyright: ignore[reportArgumentType]
