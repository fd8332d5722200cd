"""Int8 kernels and the product that contracts them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import add_bias
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision


@kernel_class(("values", "scale", "step"), ("dynamic",))
@dataclasses.dataclass(frozen=True)
class Quantized:
    """Int8 weights with one float32 scale per output: `W ≈ values · scale`, `values` in [-127, 127].

    Attributes:
        values: int8[D, F].
        scale: float32[F].
        dynamic: True quantizes activations per row as well and multiplies int8 by int8 into int32; False multiplies
            activations in the compute dtype by the widened values.
        step: float32[], with `dynamic`: the step of all activations, from calibration; larger ones than 127 steps are
            cut off. None takes the step of each row from its largest magnitude.

    The input gradient is that of the dequantized product (straight through the rounding); values and scale get none.
    """

    values: Any
    scale: Any
    dynamic: bool = True
    step: Any = None

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        y = _quantized_matmul(x, self.values, self.scale, self.step, self.dynamic, precision)
        return y if bias is None else add_bias(y, bias)

    def fold(self, bias: Any) -> tuple[jax.Array, Any]:
        """The same map as (matrix float32, bias); see `erel_jax.layers.kernel.fold`."""
        return self.values.astype(jnp.float32) * self.scale.astype(jnp.float32)[..., None, :], bias


def _integer_forward(x, values, scale, step, dynamic, precision):
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    if dynamic:
        codes, steps = quantize_rows(flat) if step is None else _in_steps(flat, step)
        sums = jnp.matmul(codes, values, preferred_element_type=jnp.int32)
        y = sums.astype(jnp.float32) * (steps[:, None] * scale[None, :])
    else:
        operand = flat.astype(precision.compute)
        y = jnp.matmul(operand, values.astype(precision.compute), preferred_element_type=precision.accumulate)
        y = y * scale[None, :].astype(y.dtype)
    return y.astype(precision.accumulate).reshape(*x.shape[:-1], values.shape[1])


def _in_steps(x: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`quantize_rows` with one step for all rows."""
    inverse = jnp.where(step > 0, 1.0 / jnp.where(step > 0, step, 1.0), 0.0)
    return jnp.clip(jnp.round(x * inverse), -127, 127).astype(jnp.int8), jnp.reshape(step, (1,))


def _quantized_vjp_forward(x, values, scale, step, dynamic, precision):
    return _integer_forward(x, values, scale, step, dynamic, precision), (values, scale, jnp.zeros((0,), x.dtype))


def _quantized_vjp_backward(dynamic, precision, residuals, dy):
    values, scale, like_x = residuals
    scaled = dy.reshape(-1, dy.shape[-1]) * scale[None, :].astype(dy.dtype)
    dx = jnp.matmul(
        scaled.astype(precision.compute),
        values.astype(precision.compute).T,
        preferred_element_type=precision.accumulate,
    )
    return dx.reshape(*dy.shape[:-1], values.shape[0]).astype(like_x.dtype), None, None, None


_quantized_matmul = jax.custom_vjp(_integer_forward, nondiff_argnums=(4, 5))
_quantized_matmul.defvjp(_quantized_vjp_forward, _quantized_vjp_backward)


def quantize_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Symmetric int8 codes per row.

    Args:
        x: float32[N, D].

    Returns:
        (codes int8[N, D] in [-127, 127], steps float32[N]) with `x ≈ codes · steps[:, None]`; a zero row has step 0.
    """
    largest = jnp.max(jnp.abs(x), axis=-1)
    inverse = jnp.where(largest > 0, 127.0 / jnp.where(largest > 0, largest, 1.0), 0.0)
    codes = jnp.round(x * inverse[:, None]).astype(jnp.int8)
    return codes, largest / 127.0
