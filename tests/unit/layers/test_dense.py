"""`dense`: values, gradients, and products that must never be formed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.layers import BFLOAT16, FLOAT32, dense, matmul
from erel_jax.layers.dense import weight_gradient


def operands(*leading, width=6, out=5, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    x = jax.random.normal(keys[0], (*leading, width))
    return x, jax.random.normal(keys[1], (width, out)), jax.random.normal(keys[2], (out,)), keys[3]


def products(fn, *args):
    """Number of matrix products in the compiled program's input HLO."""
    return jax.jit(fn).lower(*args).as_text().count("dot_general")


@pytest.mark.parametrize("leading", [(4,), (2, 3, 2)])
def test_values_over_any_leading_axes(leading):
    x, w, b, _ = operands(*leading)
    expected = np.einsum("...d,df->...f", np.asarray(x, np.float64), np.asarray(w, np.float64)) + np.asarray(b)
    np.testing.assert_allclose(dense(x, w, b), expected, atol=1e-5)
    np.testing.assert_allclose(dense(x, w), expected - np.asarray(b), atol=1e-5)


@pytest.mark.parametrize(("width", "out"), [(6, 5), (5, 6), (33, 1)])
@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
def test_gradients_against_numpy(width, out, precision):
    x, w, b, key = operands(3, 4, width=width, out=out)
    cotangent = jax.random.normal(key, (3, 4, out))
    rounded = [np.asarray(a.astype(precision.compute), np.float64) for a in (x, w, cotangent)]
    flat_x, flat_c = rounded[0].reshape(12, width), rounded[2].reshape(12, out)
    y, pull = jax.vjp(lambda x, w, b: dense(x, w, b, precision), x, w, b)
    dx, dw, db = pull(cotangent)
    assert y.dtype == jnp.float32 and (dx.shape, dw.shape, db.shape) == (x.shape, w.shape, b.shape)
    np.testing.assert_allclose(y.reshape(12, out), flat_x @ rounded[1] + np.asarray(b), atol=1e-5)
    np.testing.assert_allclose(dx.reshape(12, width), flat_c @ rounded[1].T, atol=1e-5)
    np.testing.assert_allclose(dw, flat_x.T @ flat_c, atol=1e-5)
    np.testing.assert_allclose(db, np.asarray(cotangent).reshape(12, out).sum(0), atol=1e-5)


def test_gradients_keep_the_dtypes_of_what_was_given():
    x, w, _, _ = operands(4)
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.float32)
    dx, dw = jax.grad(lambda x, w: jnp.sum(dense(x, w, None, BFLOAT16)), argnums=(0, 1))(x, w)
    assert dx.dtype == jnp.bfloat16 and dw.dtype == jnp.float32


def test_products_nobody_asked_for_are_not_formed():
    x, w, _, _ = operands(4)
    loss = lambda x, w: jnp.sum(dense(x, w) ** 2)  # noqa: E731
    assert products(loss, x, w) == 1
    assert products(jax.grad(loss, argnums=0), x, w) == 2
    assert products(jax.grad(loss, argnums=1), x, w) == 2
    assert products(jax.grad(loss, argnums=(0, 1)), x, w) == 3


def test_a_frozen_kernel_keeps_no_activation_alive():
    x, w, _, _ = operands(4)
    _, pull = jax.vjp(lambda x: dense(x, w), x)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull)]
    assert (4, 6) not in kept and (6, 5) in kept


def test_a_disconnected_output_gives_zero_gradients():
    x, w, _, _ = operands(4)

    def loss(w):
        dense(x, w)
        return jnp.sum(w)

    np.testing.assert_array_equal(jax.grad(loss)(w), 1.0)


def test_jit_equals_eager_and_vmap_equals_loop():
    x, w, b, _ = operands(4, 3)
    np.testing.assert_allclose(jax.jit(dense)(x, w, b), dense(x, w, b), atol=1e-6)
    looped = jnp.stack([dense(row, w, b) for row in x])
    np.testing.assert_allclose(jax.vmap(lambda row: dense(row, w, b))(x), looped, atol=1e-6)
    gradient = jax.vmap(jax.grad(lambda row, w: jnp.sum(dense(row, w) ** 2), argnums=1), (0, None))(x, w)
    each = jnp.stack([jax.grad(lambda w, row=row: jnp.sum(dense(row, w) ** 2))(w) for row in x])
    np.testing.assert_allclose(gradient, each, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 3, 9), (7, 9, 3), (1, 4, 2), (6, 4, 4)])
@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
def test_weight_gradient_runs_whichever_side_is_wider(shape, precision):
    rows, width, out = shape
    x = jax.random.normal(jax.random.key(0), (rows, width)).astype(precision.compute)
    dy = jax.random.normal(jax.random.key(1), (rows, out)).astype(precision.compute)
    expected = np.asarray(x, np.float64).T @ np.asarray(dy, np.float64)
    got = jax.jit(lambda x, dy: weight_gradient(x, dy, precision))(x, dy)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_bfloat16_operands_accumulate_in_float32():
    ones = jnp.ones((1, 1024))
    w = jnp.full((1024, 1), 1.0 + 2**-7)
    assert float(matmul(ones, w, BFLOAT16)[0, 0]) == 1024 * (1 + 2**-7)
