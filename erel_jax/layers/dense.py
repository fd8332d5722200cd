"""The one matrix product of the library: `dense(x, kernel, bias, precision)`.

Every layer calls `dense`. A kernel is a plain array `[D, F]` or a pytree that knows how to contract itself with an
activation (`erel_jax.layers.kernels`), so adapters and quantized weights need no change in any layer.

The backward pass is written out. Operands are flattened to two dimensions, the cotangent is cast to the compute dtype
(otherwise a float32 cotangent meets a bfloat16 kernel), and a product whose result nobody asked for is never formed:
a frozen kernel keeps no activation alive, and a first layer computes no input gradient.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.kept import as_bits, from_bits
from erel_jax.layers.precision import FLOAT32, Precision
from erel_jax.layers.varying import vary_together


def dense(x: jax.Array, kernel: Any, bias: jax.Array | None = None, precision: Precision = FLOAT32) -> jax.Array:
    """Affine map `x @ kernel + bias`.

    Args:
        x: float[..., D].
        kernel: float[D, F], or a kernel pytree with a method `dense(x, bias, precision)`.
        bias: float[F] or None.
        precision: operands are cast to `precision.compute`; the result is `precision.accumulate`.

    Returns:
        float[..., F] in `precision.accumulate`.
    """
    if not hasattr(kernel, "ndim"):
        return kernel.dense(x, bias, precision)
    y = matmul(x, kernel, precision)
    return y if bias is None else add_bias(y, bias)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """`y + bias` with the bias cast to y's dtype and broadcast over y's leading axes."""
    return y + jnp.reshape(bias.astype(y.dtype), (1,) * (y.ndim - 1) + bias.shape)


def matmul(x: jax.Array, w: jax.Array, precision: Precision = FLOAT32) -> jax.Array:
    """`x @ w` for float[..., D] and float[D, F] with the library's own backward pass; see the module docstring."""
    x, w = vary_together(x, w)
    return _matmul(x, w, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: jax.Array, w: jax.Array, precision: Precision) -> jax.Array:
    flat = x.reshape(-1, x.shape[-1]).astype(precision.compute)
    y = _dot(flat, w.astype(precision.compute), 1, 0, precision)
    return y.reshape(*x.shape[:-1], w.shape[1])


def _forward(x, w, precision):
    y = _matmul(x.value, w.value, precision)
    kept_x = as_bits(x.value.astype(precision.compute)) if w.perturbed else None
    kept_w = w.value if x.perturbed else None
    # Zero-size arrays carry the dtypes to the backward pass without keeping the arrays alive.
    like_x, like_w = jnp.zeros((0,), x.value.dtype), jnp.zeros((0,), w.value.dtype)
    return y, (kept_x, kept_w, like_x, like_w)


def _backward(precision, residuals, dy):
    x, w, like_x, like_w = residuals
    if isinstance(dy, jax.custom_derivatives.SymbolicZero):
        return None, None
    flat_dy = dy.reshape(-1, dy.shape[-1]).astype(precision.compute)
    dx = dw = None
    if w is not None:
        dx = _dot(flat_dy, w.astype(precision.compute), 1, 1, precision)
        dx = dx.reshape(*dy.shape[:-1], w.shape[0]).astype(like_x.dtype)
    if x is not None:
        x = from_bits(x, precision.compute)
        dw = weight_gradient(x.reshape(-1, x.shape[-1]), flat_dy, precision).astype(like_w.dtype)
    return dx, dw


_matmul.defvjp(_forward, _backward, symbolic_zeros=True)


def weight_gradient(x: jax.Array, dy: jax.Array, precision: Precision) -> jax.Array:
    """`xᵀ dy` for [N, D] and [N, F] → [D, F].

    XLA's CPU backend has two weak spots here, both measured with AVX512 and absent on other backends, where the plain
    product is best. Half-precision products contracted over both leading axes leave the fast path, and a written-out
    transpose is folded back into the product: one zero row below the transposed operand keeps it apart (twice as fast).
    And a product whose left operand is the wider one runs at about 0.6 of the speed of its transpose, so the narrower
    operand goes left. The barrier keeps the final transpose out of the product: folded in, a bfloat16 product has no
    implementation and fails when it runs. The platform is the one compiled for, not the one at hand.
    """
    return jax.lax.platform_dependent(
        x,
        dy,
        cpu=partial(_cpu_weight_gradient, precision=precision),
        default=lambda a, b: _dot(a, b, 0, 0, precision),
    )


def _cpu_weight_gradient(x: jax.Array, dy: jax.Array, precision: Precision) -> jax.Array:
    if x.shape[1] > dy.shape[1]:
        return jax.lax.optimization_barrier(_leading_product(dy, x, precision)).T
    return _leading_product(x, dy, precision)


def _leading_product(a: jax.Array, b: jax.Array, precision: Precision) -> jax.Array:
    # Where a mesh splits the operands, one more row would move a row of every shard to its neighbor.
    split = any(size > 1 for size in jax.sharding.get_abstract_mesh().shape.values())
    if precision.compute == jnp.bfloat16 and not split:
        return _dot(jnp.pad(a.T, ((0, 1), (0, 0))), b, 1, 0, precision)[: a.shape[1]]
    return _dot(a, b, 0, 0, precision)


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int, precision: Precision) -> jax.Array:
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=precision.accumulate)
