"""Kernels: what a layer's weight may be besides a plain array.

A kernel is a registered pytree with a method `dense(x, bias, precision)`. Kernels nest through `base`: a `LowRank`
over a `Quantized` base is QLoRA, a `Bottleneck` over a `LowRank` is both adapters at once. The same classes hold
`ParamSpec`s in a spec, arrays in parameters and abstract arrays in between, so one rewrite serves all three.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.activation import activation
from erel_jax.layers.dense import add_bias, dense, matmul
from erel_jax.layers.precision import Precision


def _register(data: tuple[str, ...], meta: tuple[str, ...] = ()):
    def decorate(cls):
        return jax.tree_util.register_dataclass(cls, data_fields=list(data), meta_fields=list(meta))

    return decorate


@_register(("base", "a", "b"), ("scale",))
@dataclasses.dataclass(frozen=True)
class LowRank:
    """`x W + scale · (x A) B`; the merged matrix is never formed while training.

    Attributes:
        base: the frozen kernel W [D, F] (any kernel).
        a: [D, R].
        b: [R, F], zero at initialization, so that the layer starts unchanged.
        scale: α/r for LoRA, α/√r for rsLoRA.
    """

    base: Any
    a: Any
    b: Any
    scale: float = 1.0

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        update = matmul(matmul(x, self.a, precision), self.b, precision)
        return dense(x, self.base, bias, precision) + self.scale * update


@_register(("base", "down", "down_bias", "up", "up_bias"), ("activation",))
@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """A serial bottleneck adapter after a dense layer: with `h = x W + bias`, `h + φ(h W_down + b_down) W_up + b_up`.

    Attributes:
        base: the kernel W [D, F] (any kernel).
        down, down_bias: [F, R], [R].
        up, up_bias: [R, F], [F].
        activation: name of φ, see `erel_jax.layers.activation`.
    """

    base: Any
    down: Any
    down_bias: Any
    up: Any
    up_bias: Any
    activation: str = "relu"

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        h = dense(x, self.base, bias, precision)
        inner = activation(self.activation)(dense(h, self.down, self.down_bias, precision))
        return h + dense(inner, self.up, self.up_bias, precision)


@_register(("values", "scale"), ("dynamic",))
@dataclasses.dataclass(frozen=True)
class Quantized:
    """Int8 weights with one float32 scale per output: `W ≈ values · scale`, `values` in [-127, 127].

    Attributes:
        values: int8[D, F].
        scale: float32[F].
        dynamic: True quantizes activations per row as well and multiplies int8 by int8 into int32; False multiplies
            activations in the compute dtype by the widened values.

    The input gradient is that of the dequantized product (straight through the rounding); values and scale get none.
    """

    values: Any
    scale: Any
    dynamic: bool = True

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        y = _quantized_matmul(x, self.values, self.scale, self.dynamic, precision)
        return y if bias is None else add_bias(y, bias)


def _integer_forward(x, values, scale, dynamic, precision):
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    if dynamic:
        codes, steps = quantize_rows(flat)
        sums = jnp.matmul(codes, values, preferred_element_type=jnp.int32)
        y = sums.astype(jnp.float32) * (steps[:, None] * scale[None, :])
    else:
        operand = flat.astype(precision.compute)
        y = jnp.matmul(operand, values.astype(precision.compute), preferred_element_type=precision.accumulate)
        y = y * scale[None, :].astype(y.dtype)
    return y.astype(precision.accumulate).reshape(*x.shape[:-1], values.shape[1])


def _quantized_vjp_forward(x, values, scale, dynamic, precision):
    return _integer_forward(x, values, scale, dynamic, precision), (values, scale, jnp.zeros((0,), x.dtype))


def _quantized_vjp_backward(dynamic, precision, residuals, dy):
    values, scale, like_x = residuals
    scaled = dy.reshape(-1, dy.shape[-1]) * scale[None, :].astype(dy.dtype)
    dx = jnp.matmul(
        scaled.astype(precision.compute),
        values.astype(precision.compute).T,
        preferred_element_type=precision.accumulate,
    )
    return dx.reshape(*dy.shape[:-1], values.shape[0]).astype(like_x.dtype), None, None


_quantized_matmul = jax.custom_vjp(_integer_forward, nondiff_argnums=(3, 4))
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
