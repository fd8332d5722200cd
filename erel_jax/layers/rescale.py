"""Kernels whose inputs or outputs are scaled by trained vectors, as in (IA)³."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import dense
from erel_jax.layers.kernel import along_last, fold, kernel_class
from erel_jax.layers.precision import Precision


@kernel_class(("base", "input_scale", "output_scale"))
@dataclasses.dataclass(frozen=True)
class Rescaled:
    """`((x ∘ l_in) W + bias) ∘ l_out`; either vector may be None for a factor of 1.

    Attributes:
        base: the frozen kernel W [D, F] (any kernel).
        input_scale: l_in [D] or None.
        output_scale: l_out [F] or None; it scales the bias too.
    """

    base: Any
    input_scale: Any = None
    output_scale: Any = None

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        x = x if self.input_scale is None else x * along_last(self.input_scale, x)
        y = dense(x, self.base, bias, precision)
        return y if self.output_scale is None else y * along_last(self.output_scale, y)

    def fold(self, bias: Any) -> tuple[jax.Array, Any]:
        """The same map as (matrix, bias); see `erel_jax.layers.kernel.fold`."""
        weight, bias = fold(self.base, bias)
        wide = weight.astype(jnp.float32)
        if self.input_scale is not None:
            wide = wide * self.input_scale.astype(jnp.float32)[..., :, None]
        if self.output_scale is not None:
            scale = self.output_scale.astype(jnp.float32)
            wide = wide * scale[..., None, :]
            bias = None if bias is None else (bias.astype(jnp.float32) * scale).astype(bias.dtype)
        return wide.astype(weight.dtype), bias
