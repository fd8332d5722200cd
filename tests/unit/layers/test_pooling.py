"""From tokens to one vector."""

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.layers import first_token, last_positions, masked_mean, token_at

STATES = jnp.arange(2 * 3 * 2, dtype=jnp.float32).reshape(2, 3, 2)


def test_first_token():
    np.testing.assert_array_equal(first_token(STATES), [[0, 1], [6, 7]])


def test_masked_mean_counts_real_tokens_alone():
    mask = jnp.array([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(masked_mean(STATES, mask), [[1, 2], [0, 0]])
    np.testing.assert_allclose(masked_mean(STATES, mask.astype(jnp.int32)), [[1, 2], [0, 0]])
    np.testing.assert_allclose(masked_mean(STATES), [[2, 3], [8, 9]])


def test_masked_mean_of_nothing_has_finite_gradients():
    gradient = jax.grad(lambda s: jnp.sum(masked_mean(s, jnp.zeros((2, 3), bool))))(STATES)
    np.testing.assert_array_equal(gradient, 0.0)


def test_masked_mean_sums_in_float32():
    states = jnp.ones((1, 4096, 1), jnp.bfloat16)
    pooled = masked_mean(states, jnp.ones((1, 4096), bool))
    assert pooled.dtype == jnp.float32 and float(pooled[0, 0]) == 1.0


def test_token_at_one_position_per_row():
    np.testing.assert_array_equal(token_at(STATES, jnp.array([2, 0])), [[4, 5], [6, 7]])


def test_last_positions_whichever_side_is_padded():
    mask = jnp.array([[1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    found = last_positions(mask)
    np.testing.assert_array_equal(found, [2, 3, 1, 3, 0])
    assert found.dtype == jnp.int32
