"""4-bit kernels for QLoRA: NormalFloat codes with a float32 scale per block of inputs, 4.5 bits per weight.

`quantize_nf4` rewrites parameters and `nf4_spec` a spec the same way, so an adapted 4-bit model is
`module.fill(key, lora(nf4_spec(spec), patterns), quantize_nf4(params))`: the base is frozen, the adapters train in
float.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.compression.chosen import (
    ENCODER_KERNELS,
    check_group,
    group_scale,
    map_kernel_specs,
    map_kernels,
    plain_kernels,
)
from erel_jax.layers.kernels import Nf4
from erel_jax.layers.nf4 import CODEBOOK, widen
from erel_jax.module import ParamSpec, zeros

PyTree = Any

BLOCK = 64
"""Weights that share a scale, as in the paper."""


def quantize_nf4(params: PyTree, patterns: Sequence[str] = ENCODER_KERNELS, *, block: int = BLOCK) -> PyTree:
    """Kernels rounded to the nearest of 16 values per block.

    A block is `block` consecutive inputs of one output; its scale is its largest magnitude, and a block of zeros has
    scale 0. Scales stay float32 (the paper's double quantization, which saves .37 bits more, is not applied).

    Args:
        params: parameters with plain kernels float[D, F] or stacks float[layers, D, F] at the chosen paths.
        patterns: regular expressions over whole paths of kernels.
        block: inputs per scale; it must divide D and be even.

    Returns:
        The same tree with `Nf4` kernels. Values are looked at, so this runs outside jit.

    Raises:
        ConfigError: a pattern matches nothing, a match is not a float matrix, or the block does not divide D.
        NonFiniteError: a chosen kernel holds NaN or infinity.
    """

    def quantize(path: str, kernel: jax.Array) -> Nf4:
        check_group(path, "block", block, kernel.shape[-2])
        return Nf4(*_encode(kernel, block))

    return map_kernels(params, patterns, quantize)


def nf4_spec(spec: PyTree, patterns: Sequence[str] = ENCODER_KERNELS, *, block: int = BLOCK) -> PyTree:
    """The spec of what `quantize_nf4` returns, for counting, placing and lowering without weights.

    Its initializers (codes 0, scale 1) are placeholders; quantize trained parameters instead of drawing from it.

    Raises:
        ConfigError: as `quantize_nf4`.
    """

    def quantize(path: str, kernel: ParamSpec) -> Nf4:
        *stacked, width, out = kernel.shape
        check_group(path, "block", block, width)
        codes = ParamSpec((*stacked, width // 2, out), kernel.axes, zeros, jnp.uint8)
        return Nf4(codes, group_scale(kernel, block))

    return map_kernel_specs(spec, patterns, quantize)


def dequantize_nf4(params: PyTree, dtype: Any = jnp.float32) -> PyTree:
    """Plain kernels in place of `Nf4` ones."""
    return plain_kernels(params, Nf4, lambda leaf: widen(leaf.codes, leaf.scale), dtype)


def _encode(weight: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
    *stacked, width, out = weight.shape
    blocks = weight.astype(jnp.float32).reshape(*stacked, width // block, block, out)
    scale = jnp.max(jnp.abs(blocks), axis=-2)
    inverse = jnp.where(scale > 0, 1.0 / jnp.where(scale > 0, scale, 1.0), 0.0)
    unit = (blocks * inverse[..., :, None, :]).reshape(*stacked, width, out)
    codes = jnp.zeros(unit.shape, jnp.uint8)
    # A weight's code is the number of midpoints below it.
    for lower, upper in itertools.pairwise(CODEBOOK):
        codes = codes + (unit > (lower + upper) / 2).astype(jnp.uint8)
    pairs = codes.reshape(*stacked, width // 2, 2, out)
    return (pairs[..., 0, :] << 4) | pairs[..., 1, :], scale
