"""Kernels contract like the matrices they stand for, alone and nested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.layers import BFLOAT16, FLOAT32, Bottleneck, LowRank, Quantized, dense, quantize_rows


def draw(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def low_rank(base, width=6, out=5, rank=2):
    return LowRank(base, draw(width, rank, seed=11), draw(rank, out, seed=12), 0.5)


def test_low_rank_is_base_plus_scaled_update():
    x, w = draw(3, 4, 6), draw(6, 5, seed=1)
    kernel, bias = low_rank(w), draw(5, seed=2)
    merged = np.asarray(w) + 0.5 * np.asarray(kernel.a) @ np.asarray(kernel.b)
    np.testing.assert_allclose(dense(x, kernel, bias), np.asarray(x) @ merged + np.asarray(bias), atol=1e-5)


def test_low_rank_never_forms_the_merged_matrix():
    x, kernel = draw(3, 64), LowRank(draw(64, 48), draw(64, 2), draw(2, 48))
    jaxpr = jax.make_jaxpr(lambda x, kernel: dense(x, kernel))(x, kernel)
    assert not [eqn for eqn in jaxpr.eqns if any(getattr(v.aval, "shape", None) == (64, 48) for v in eqn.outvars)]


def test_low_rank_trains_factors_without_the_base():
    x, w = draw(4, 6), draw(6, 5, seed=1)
    factors, frozen = tree.partition({"kernel": low_rank(w)}, ["kernel/[ab]"])

    def loss(factors):
        return jnp.sum(dense(x, tree.merge(factors, frozen)["kernel"]) ** 2)

    gradient = jax.grad(loss)(factors)
    assert list(tree.paths(gradient)) == ["kernel/a", "kernel/b"]
    dy = 2 * np.asarray(dense(x, low_rank(w)))
    expected = 0.5 * (np.asarray(x) @ np.asarray(low_rank(w).a)).T @ dy
    np.testing.assert_allclose(gradient["kernel"].b, expected, rtol=1e-4, atol=1e-4)


def bottleneck(base, out=5, rank=3):
    return Bottleneck(base, draw(out, rank, seed=3), draw(rank, seed=4), draw(rank, out, seed=5), draw(out, seed=6))


def test_bottleneck_against_numpy():
    x, w = draw(4, 6), draw(6, 5, seed=1)
    k = bottleneck(w)
    h = np.asarray(x) @ np.asarray(w) + 1.0
    inner = np.maximum(h @ np.asarray(k.down) + np.asarray(k.down_bias), 0)
    expected = h + inner @ np.asarray(k.up) + np.asarray(k.up_bias)
    np.testing.assert_allclose(dense(x, k, jnp.ones(5)), expected, atol=1e-5)


def test_kernels_nest_through_base():
    x, w = draw(4, 6), draw(6, 5, seed=1)
    nested = bottleneck(low_rank(w))
    merged = bottleneck(w + 0.5 * low_rank(w).a @ low_rank(w).b)
    np.testing.assert_allclose(dense(x, nested, jnp.ones(5)), dense(x, merged, jnp.ones(5)), atol=1e-4)


def quantized(w, dynamic):
    scale = jnp.max(jnp.abs(w), axis=0) / 127
    return Quantized(jnp.round(w / scale[None]).astype(jnp.int8), scale, dynamic)


def test_quantize_rows_bounds_its_error_and_handles_zero_rows():
    x = draw(5, 9).at[2].set(0.0)
    codes, steps = quantize_rows(x)
    assert codes.dtype == jnp.int8 and int(jnp.max(jnp.abs(codes.astype(jnp.int32)))) == 127
    assert float(steps[2]) == 0 and not np.any(np.asarray(codes[2]))
    error = np.abs(np.asarray(x) - np.asarray(codes, np.float32) * np.asarray(steps)[:, None])
    assert np.all(error <= np.asarray(steps)[:, None] / 2 + 1e-7)


def test_dynamic_product_is_exact_integer_arithmetic():
    x, kernel = draw(3, 4, 6), quantized(draw(6, 5, seed=1), True)
    codes, steps = quantize_rows(x.reshape(12, 6))
    sums = np.asarray(codes, np.int64) @ np.asarray(kernel.values, np.int64)
    expected = sums * np.asarray(steps, np.float64)[:, None] * np.asarray(kernel.scale, np.float64)
    np.testing.assert_allclose(dense(x, kernel).reshape(12, 5), expected, rtol=1e-6, atol=1e-6)


def test_long_integer_sums_do_not_wrap():
    kernel = Quantized(jnp.full((512, 1), 127, jnp.int8), jnp.ones(1))
    assert float(dense(jnp.full((1, 512), 127.0), kernel)[0, 0]) == 512 * 127 * 127


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
def test_static_product_is_that_of_the_widened_kernel(precision):
    x, kernel = draw(3, 6), quantized(draw(6, 5, seed=1), False)
    wide = np.asarray(kernel.values, np.float64) * np.asarray(kernel.scale, np.float64)
    rounded = np.asarray(x.astype(precision.compute), np.float64)
    np.testing.assert_allclose(dense(x, kernel, jnp.ones(5), precision), rounded @ wide + 1, atol=1e-5)


@pytest.mark.parametrize("dynamic", [True, False])
def test_quantized_input_gradient_is_that_of_the_widened_kernel(dynamic):
    x, kernel = draw(2, 3, 6), quantized(draw(6, 5, seed=1), dynamic)
    cotangent = draw(2, 3, 5, seed=7)
    _, pull = jax.vjp(lambda x: dense(x, kernel), x)
    wide = np.asarray(kernel.values, np.float64) * np.asarray(kernel.scale, np.float64)
    np.testing.assert_allclose(pull(cotangent)[0], np.asarray(cotangent) @ wide.T, atol=1e-5)


@pytest.mark.parametrize("dynamic", [True, False])
def test_low_rank_over_quantized_trains_only_the_factors(dynamic):
    x = draw(4, 6)
    base = quantized(draw(6, 5, seed=1), dynamic)
    factors, frozen = tree.partition({"kernel": low_rank(base)}, ["kernel/[ab]"])

    def loss(factors):
        return jnp.sum(dense(x, tree.merge(factors, frozen)["kernel"]))

    gradient = jax.jit(jax.grad(loss))(factors)
    assert list(tree.paths(gradient)) == ["kernel/a", "kernel/b"]
    expected = 0.5 * np.asarray(x).T @ np.ones((4, 5)) @ np.asarray(low_rank(base).b).T
    np.testing.assert_allclose(gradient["kernel"].a, expected, rtol=1e-4, atol=1e-5)


def test_kernels_are_pytrees_with_their_settings_as_structure():
    one, other = low_rank(draw(6, 5)), LowRank(draw(6, 5), draw(6, 2), draw(2, 5), 2.0)
    assert jax.tree.structure(one) != jax.tree.structure(other)
    assert jax.tree.map(lambda x: x, one).scale == 0.5
