"""4-bit NormalFloat kernels (QLoRA, arXiv 2305.14314) and the product that contracts them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import add_bias
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision
from erel_jax.layers.widened import widened_product

CODEBOOK: tuple[float, ...] = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The sixteen values of NF4: quantiles of N(0, 1), scaled to [-1, 1], with an exact zero (the paper's appendix E)."""


@kernel_class(("codes", "scale"))
@dataclasses.dataclass(frozen=True)
class Nf4:
    """Weights in four bits with one float32 scale per block of inputs: `W_df ≈ CODEBOOK[code_df] · scale_bf`.

    Attributes:
        codes: uint8[D/2, F]; byte k of a column holds row 2k in its high and row 2k + 1 in its low four bits.
        scale: float32[D/block, F], the largest magnitude of each block.

    The matrix exists only inside a product, in the forward and again in the backward pass; codes and scale get no
    gradient.
    """

    codes: Any
    scale: Any

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        y = widened_product(widen, precision, x, (self.codes, self.scale))
        return y if bias is None else add_bias(y, bias)

    def fold(self, bias: Any) -> tuple[jax.Array, Any]:
        """The same map as (matrix float32, bias); see `erel_jax.layers.kernel.fold`."""
        return widen(self.codes, self.scale), bias


def widen(codes: jax.Array, scale: jax.Array) -> jax.Array:
    """The float32[..., D, F] that codes uint8[..., D/2, F] and scales float32[..., D/block, F] stand for."""
    *stacked, half, out = codes.shape
    pairs = jnp.stack([codes >> 4, codes & 15], axis=-2).reshape(*stacked, 2 * half, out)
    values = jnp.take(jnp.asarray(CODEBOOK, jnp.float32), pairs.astype(jnp.int32), axis=0, mode="clip")
    blocks = scale.shape[-2]
    values = values.reshape(*stacked, blocks, 2 * half // blocks, out) * scale[..., :, None, :]
    return values.reshape(*stacked, 2 * half, out)
