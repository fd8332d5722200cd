"""Weight-only kernels of 4 or 8 bits whose inputs share a scale in groups, and the product that contracts them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import add_bias
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision
from erel_jax.layers.widened import widened_product


@kernel_class(("codes", "scale", "lowest"), ("bits",))
@dataclasses.dataclass(frozen=True)
class Grouped:
    """Weights as evenly spaced values, with a step per group g of inputs and output f.

    Asymmetric: `W_df ≈ code_df · scale_gf + lowest_gf`. Symmetric (`lowest` is None):
    `W_df ≈ (code_df - 2^(bits - 1)) · scale_gf`, codes from 1 up, so that zero is exact.

    Attributes:
        codes: uint8[D, F] with 8 bits, uint8[D/2, F] with 4: byte k of a column holds row 2k in its high and row 2k + 1
            in its low four bits.
        scale: float32[D/group, F].
        lowest: float32[D/group, F] or None.
        bits: 4 or 8.
    """

    codes: Any
    scale: Any
    lowest: Any = None
    bits: int = 4

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        widen = widen_4 if self.bits == 4 else widen_8
        y = widened_product(widen, precision, x, (self.codes, self.scale, self.lowest))
        return y if bias is None else add_bias(y, bias)

    def fold(self, bias: Any) -> tuple[jax.Array, Any]:
        """The same map as (matrix float32, bias); see `erel_jax.layers.kernel.fold`."""
        return (widen_4 if self.bits == 4 else widen_8)(self.codes, self.scale, self.lowest), bias


def widen_4(codes: jax.Array, scale: jax.Array, lowest: jax.Array | None) -> jax.Array:
    """float32[..., D, F] from the codes uint8[..., D/2, F] of a 4-bit kernel."""
    *stacked, half, out = codes.shape
    return _spread(jnp.stack([codes >> 4, codes & 15], axis=-2).reshape(*stacked, 2 * half, out), scale, lowest, 8)


def widen_8(codes: jax.Array, scale: jax.Array, lowest: jax.Array | None) -> jax.Array:
    """float32[..., D, F] from the codes uint8[..., D, F] of an 8-bit kernel."""
    return _spread(codes, scale, lowest, 128)


def _spread(codes: jax.Array, scale: jax.Array, lowest: jax.Array | None, middle: int) -> jax.Array:
    *stacked, width, out = codes.shape
    groups = scale.shape[-2]
    values = codes.astype(jnp.float32).reshape(*stacked, groups, width // groups, out)
    if lowest is None:
        values = (values - middle) * scale[..., :, None, :]
    else:
        values = values * scale[..., :, None, :] + lowest[..., :, None, :]
    return values.reshape(*stacked, width, out)
