"""LayerNorm against flax.linen; normalization of vectors at its edges."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.layers import l2_normalize, layer_norm, layer_norm_spec


@pytest.mark.parametrize(("eps", "shape"), [(1e-12, (4, 8)), (1e-5, (2, 3, 8))])
def test_layer_norm_equals_linen(eps, shape):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), shape)
    params = {"scale": jax.random.normal(jax.random.key(1), (8,)), "bias": jax.random.normal(jax.random.key(2), (8,))}
    linen: Any = nn.LayerNorm(epsilon=eps)

    def ours(params, x):
        return jnp.sum(jnp.sin(layer_norm(params, x, eps)))

    def theirs(params, x):
        return jnp.sum(jnp.sin(linen.apply({"params": params}, x)))

    np.testing.assert_allclose(layer_norm(params, x, eps), linen.apply({"params": params}, x), atol=1e-5)
    gradients = jax.jit(lambda *a: [jax.grad(fn, argnums=(0, 1))(*a) for fn in (ours, theirs)])(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *gradients)


def test_layer_norm_computes_in_float32_and_keeps_the_dtype():
    params = module.init(jax.random.key(0), layer_norm_spec(4))
    x = jnp.array([[1000.0, 1001.0, 1002.0, 1003.0]])
    np.testing.assert_allclose(layer_norm(params, x, 1e-12)[0], (np.arange(4) - 1.5) / np.sqrt(1.25), atol=1e-5)
    assert layer_norm(params, x.astype(jnp.bfloat16), 1e-12).dtype == jnp.bfloat16


def test_unit_vectors():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e30, 0.0], [0.0, -1e-30]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0, 0], [1, 0], [0, -1]], atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(l2_normalize(x)))(x)
    assert np.all(np.isfinite(gradient))


def test_half_precision_vectors_do_not_overflow():
    x = jnp.full((1, 512), 300.0, jnp.float16)
    np.testing.assert_allclose(l2_normalize(x), 1 / np.sqrt(512), rtol=1e-5)
    assert l2_normalize(x).dtype == jnp.float32
