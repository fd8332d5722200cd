"""Kernels of 8-bit floats (e4m3) and the product that contracts them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import add_bias
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision
from erel_jax.layers.widened import widened_product

LARGEST = 448.0
"""The largest finite value of e4m3."""


@kernel_class(("values", "scale"), ("dynamic",))
@dataclasses.dataclass(frozen=True)
class Float8:
    """Weights as 8-bit floats with one float32 scale per output: `W ≈ values · scale`.

    Attributes:
        values: float8_e4m3fn[D, F].
        scale: float32[F].
        dynamic: True scales and rounds activations per row as well and multiplies 8-bit floats by 8-bit floats on a
            GPU, which needs one with float8 products (compute capability 8.9 or higher). On other backends, and where
            False, the values are widened to the compute dtype.

    The input gradient is that of the widened product; values and scale get none.
    """

    values: Any
    scale: Any
    dynamic: bool = False

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        if self.dynamic and jax.default_backend() == "gpu":
            y = _float8_product(x, self.values, self.scale).astype(precision.accumulate)
        else:
            y = widened_product(widen, precision, x, (self.values, self.scale))
        return y if bias is None else add_bias(y, bias)

    def fold(self, bias: Any) -> tuple[jax.Array, Any]:
        """The same map as (matrix float32, bias); see `erel_jax.layers.kernel.fold`."""
        return widen(self.values, self.scale), bias


def widen(values: jax.Array, scale: jax.Array) -> jax.Array:
    """The float32[..., D, F] that values float8[..., D, F] and scales float32[..., F] stand for."""
    return values.astype(jnp.float32) * scale.astype(jnp.float32)[..., None, :]


def to_float8(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """`x ≈ values · scale` with the largest magnitude along an axis at the end of the range.

    Args:
        x: float[..., D, F].
        axis: the axis whose members share a scale.

    Returns:
        (values float8_e4m3fn of x's shape, scale float32 with size 1 on the axis; 0 where all are zero).
    """
    wide = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=axis, keepdims=True)
    unit = wide * jnp.where(largest > 0, LARGEST / jnp.where(largest > 0, largest, 1.0), 0.0)
    return jnp.clip(unit, -LARGEST, LARGEST).astype(jnp.float8_e4m3fn), largest / LARGEST


@jax.custom_vjp
def _float8_product(x, values, scale):
    rows, steps = to_float8(x.reshape(-1, x.shape[-1]), -1)
    y = jnp.matmul(rows, values, preferred_element_type=jnp.float32) * (steps * scale[None, :])
    return y.reshape(*x.shape[:-1], values.shape[1])


def _forward(x, values, scale):
    return _float8_product(x, values, scale), (values, scale, jnp.zeros((0,), x.dtype))


def _backward(residuals, dy):
    values, scale, like_x = residuals
    dx = jnp.matmul(dy.reshape(-1, dy.shape[-1]), widen(values, scale).astype(dy.dtype).T)
    return dx.reshape(*dy.shape[:-1], values.shape[0]).astype(like_x.dtype), None, None


_float8_product.defvjp(_forward, _backward)
