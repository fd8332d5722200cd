"""What every compressed kernel must do: the spec of its rewrite, products, gradients, dtypes, stacks and adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import compression, module, tree
from erel_jax.adapters import lora
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import BFLOAT16, FLOAT32, dense
from erel_jax.module import ParamSpec

AT = [r"(?:.*/)?kernel"]
STEP = {"kernel": jnp.asarray([0.02, 0.02]) * 127}


def fixed_steps(params):
    return compression.with_static_ranges(compression.quantize_int8(params, AT), STEP)


def grouped(**options):
    return (
        lambda params: compression.quantize_grouped(params, AT, group=8, **options),
        lambda spec: compression.grouped_spec(spec, AT, group=8, **options),
    )


# Name → (rewrite of parameters, rewrite of a spec, tolerance of a product against the folded matrix).
KERNELS = {
    "int8": (lambda p: compression.quantize_int8(p, AT), lambda s: compression.quantize_spec(s, AT), 0.3),
    "int8_widened": (
        lambda p: compression.quantize_int8(p, AT, dynamic=False),
        lambda s: compression.quantize_spec(s, AT, dynamic=False),
        1e-4,
    ),
    "int8_static": (fixed_steps, lambda s: compression.static_ranges_spec(compression.quantize_spec(s, AT)), 0.3),
    "nf4": (lambda p: compression.quantize_nf4(p, AT, block=8), lambda s: compression.nf4_spec(s, AT, block=8), 1e-4),
    "grouped4": (*grouped(), 1e-4),
    "grouped4_asymmetric": (*grouped(symmetric=False), 1e-4),
    "grouped8": (*grouped(bits=8), 1e-4),
    "float8": (
        lambda p: compression.quantize_float8(p, AT, dynamic=True),
        lambda s: compression.float8_spec(s, AT, dynamic=True),
        1e-4,
    ),
}
SPEC = {"kernel": ParamSpec((2, 16, 6), ("layers", "embed", "mlp"))}
WEIGHT = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 6)), jnp.float32)
X = jnp.asarray(np.clip(np.random.default_rng(1).normal(size=(4, 3, 16)), -2.5, 2.5), jnp.float32)


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(name):
    rewrite, respec, tolerance = KERNELS[name]
    params, spec = rewrite({"kernel": WEIGHT}), respec(SPEC)
    assert jax.tree.structure(spec) == jax.tree.structure(params)
    shapes = {path: (leaf.shape, leaf.dtype) for path, leaf in tree.paths(params).items()}
    assert shapes == {path: (leaf.shape, jnp.dtype(leaf.dtype)) for path, leaf in tree.paths(spec).items()}
    assert all(len(leaf.axes) == len(leaf.shape) for leaf in jax.tree.leaves(spec))
    assert tree.nbytes(params) < WEIGHT.nbytes / 1.5

    # One layer of the stack is a kernel, and all of them fold at once.
    kernel = jax.tree.map(lambda leaf: leaf[1], params["kernel"])
    matrix = np.asarray(params["kernel"].fold(None)[0])[1]
    np.testing.assert_allclose(matrix, WEIGHT[1], atol=0.35)
    bias = jnp.arange(6.0)
    expected = np.asarray(X) @ matrix + np.arange(6.0)
    run = jax.jit(dense, static_argnums=3)
    np.testing.assert_allclose(run(X, kernel, bias, FLOAT32), expected, atol=tolerance)
    np.testing.assert_allclose(run(X, kernel, bias, FLOAT32), dense(X, kernel, bias, FLOAT32), atol=1e-5)
    alone = jax.vmap(lambda x: dense(x, kernel, None, FLOAT32))(X)
    np.testing.assert_allclose(alone, dense(X, kernel, None, FLOAT32), atol=1e-5)

    for precision in (FLOAT32, BFLOAT16):
        y, back = jax.vjp(lambda x, p=precision: dense(x, kernel, bias, p), X.astype(precision.compute))
        (dx,) = back(jnp.ones_like(y))
        assert y.dtype == jnp.float32 and dx.dtype == precision.compute
        wanted = np.broadcast_to(matrix.sum(1), X.shape)
        np.testing.assert_allclose(dx.astype(jnp.float32), wanted, atol=1e-4 if precision is FLOAT32 else 0.2)

    adapted = module.fill(jax.random.key(0), lora(spec, AT, rank=2), params)
    one = jax.tree.map(lambda leaf: leaf[1], adapted["kernel"])
    np.testing.assert_allclose(dense(X, one, bias, FLOAT32), dense(X, kernel, bias, FLOAT32), atol=1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_refused(name):
    rewrite, respec, _ = KERNELS[name]
    for made in (lambda: rewrite({"kernal": WEIGHT}), lambda: respec({"kernal": SPEC["kernel"]})):
        with pytest.raises(ConfigError, match="matches no parameter"):
            made()
    with pytest.raises(ConfigError, match="expected a float kernel"):
        rewrite({"kernel": jnp.ones((2, 16, 6), jnp.int32)})
    with pytest.raises(NonFiniteError, match="NaN"):
        rewrite({"kernel": WEIGHT.at[0, 3, 2].set(jnp.nan)})
