"""Weight-only kernels of 4 or 8 bits in groups: storage shrinks, products run in the compute dtype.

`quantize_grouped` rounds to the nearest or, given second moments of the kernels' inputs (`observe`), as GPTQ does;
`grouped_spec` rewrites a spec the same way. At 4 bits and groups of 128 a weight takes 4.25 bits, or 4.5 with a lowest
value per group.
"""

from collections.abc import Mapping, Sequence
from functools import partial
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
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import Grouped
from erel_jax.module import ParamSpec, zeros

PyTree = Any

GROUP = 128
"""Inputs that share a scale."""
DAMPING = 0.01
"""Added to the diagonal of the second moments, as a share of its mean (the paper's value)."""


def quantize_grouped(
    params: PyTree,
    patterns: Sequence[str] = ENCODER_KERNELS,
    *,
    bits: int = 4,
    group: int = GROUP,
    symmetric: bool = True,
    moments: Mapping[str, jax.Array] | None = None,
) -> PyTree:
    """Kernels in evenly spaced values, with a step per group of inputs and output.

    Args:
        params: parameters with plain kernels float[D, F] or stacks float[layers, D, F] at the chosen paths.
        patterns: regular expressions over whole paths of kernels.
        bits: 4 or 8.
        group: inputs per scale; it must divide D.
        symmetric: values symmetric around an exact zero; False spreads them from the group's lowest to its highest
            weight, which is finer for lopsided groups and takes one more number per group.
        moments: `observe(..., MOMENTS)` of the same kernels. Weights are then rounded one input after the other, and
            each rounding error is made up for by the weights not rounded yet, as far as the second moments allow
            (GPTQ, arXiv 2210.17323). None rounds to the nearest.

    Returns:
        The same tree with `Grouped` kernels. Values are looked at, so this runs outside jit.

    Raises:
        ConfigError: a pattern matches nothing, a match is not a float matrix, the group does not divide D, or moments
            are missing or of another shape.
        NonFiniteError: a chosen kernel holds NaN or infinity.
    """
    settings = {"bits": bits, "group": group, "symmetric": symmetric}

    def quantize(path: str, kernel: jax.Array) -> Grouped:
        _check(path, kernel.shape[-2], bits, group)
        parts = _nearest(kernel, **settings) if moments is None else _gptq(path, kernel, moments, **settings)
        return Grouped(_packed(parts[0], bits), *parts[1:], bits=bits)

    return map_kernels(params, patterns, quantize)


def grouped_spec(
    spec: PyTree,
    patterns: Sequence[str] = ENCODER_KERNELS,
    *,
    bits: int = 4,
    group: int = GROUP,
    symmetric: bool = True,
) -> PyTree:
    """The spec of what `quantize_grouped` returns, for counting, placing and lowering without weights.

    Its initializers (codes 0, scale 1) are placeholders; quantize trained parameters instead of drawing from it.

    Raises:
        ConfigError: as `quantize_grouped`.
    """

    def quantize(path: str, kernel: ParamSpec) -> Grouped:
        *stacked, width, out = kernel.shape
        _check(path, width, bits, group)
        codes = ParamSpec((*stacked, width * bits // 8, out), kernel.axes, zeros, jnp.uint8)
        per_group = group_scale(kernel, group)
        return Grouped(codes, per_group, None if symmetric else per_group, bits)

    return map_kernel_specs(spec, patterns, quantize)


def dequantize_grouped(params: PyTree, dtype: Any = jnp.float32) -> PyTree:
    """Plain kernels in place of `Grouped` ones."""
    return plain_kernels(params, Grouped, lambda leaf: leaf.fold(None)[0], dtype)


def _steps(block: jax.Array, bits: int, symmetric: bool) -> tuple[jax.Array, jax.Array | None]:
    """Scale and lowest value float32[..., 1, F] of a group float32[..., group, F]."""
    if symmetric:
        return jnp.max(jnp.abs(block), axis=-2, keepdims=True) / (2 ** (bits - 1) - 1), None
    lowest, highest = (f(block, axis=-2, keepdims=True) for f in (jnp.min, jnp.max))
    return (highest - lowest) / (2**bits - 1), lowest


def _codes(block: jax.Array, scale: jax.Array, lowest: jax.Array | None, bits: int) -> jax.Array:
    """Nearest codes, still as float32."""
    middle = 2 ** (bits - 1)
    inverse = jnp.where(scale > 0, 1.0 / jnp.where(scale > 0, scale, 1.0), 0.0)
    if lowest is None:
        return jnp.clip(jnp.round(block * inverse) + middle, 1, 2 * middle - 1)
    return jnp.clip(jnp.round((block - lowest) * inverse), 0, 2 * middle - 1)


def _values(codes: jax.Array, scale: jax.Array, lowest: jax.Array | None, bits: int) -> jax.Array:
    return (codes - 2 ** (bits - 1)) * scale if lowest is None else codes * scale + lowest


@partial(jax.jit, static_argnames=("bits", "group", "symmetric"))
def _nearest(weight: jax.Array, *, bits: int, group: int, symmetric: bool) -> tuple[Any, ...]:
    *stacked, width, out = weight.shape
    blocks = weight.astype(jnp.float32).reshape(*stacked, width // group, group, out)
    scale, lowest = _steps(blocks, bits, symmetric)
    codes = _codes(blocks, scale, lowest, bits).reshape(weight.shape)
    return codes, scale[..., 0, :], None if lowest is None else lowest[..., 0, :]


def _gptq(path: str, weight: jax.Array, moments: Mapping[str, jax.Array], **settings: Any) -> tuple[jax.Array, ...]:
    wanted = (*weight.shape[:-1], weight.shape[-2])
    if path not in moments or tuple(moments[path].shape) != wanted:
        got = list(moments[path].shape) if path in moments else f"nothing, but {sorted(moments)[:3]}"
        raise ConfigError(f"{path}: got moments {got}, expected {list(wanted)}; take those of observe(..., MOMENTS).")
    each = partial(_gptq_matrix, **settings)
    return (jax.vmap(each) if weight.ndim == 3 else each)(weight.astype(jnp.float32), moments[path])


@partial(jax.jit, static_argnames=("bits", "group", "symmetric"))
def _gptq_matrix(weight: jax.Array, moments: jax.Array, *, bits: int, group: int, symmetric: bool) -> tuple[Any, ...]:
    """Codes, scales and lowest values of one matrix float32[D, F] whose inputs have the second moments [D, D]."""
    width, out = weight.shape
    moments = moments.astype(jnp.float32)
    damped = moments + (DAMPING * jnp.mean(jnp.diagonal(moments)) + 1e-8) * jnp.eye(width)
    inverse = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(damped), True), jnp.eye(width))
    # Row i of the upper factor says how the weights behind i make up for an error at i.
    upper = jnp.linalg.cholesky(inverse).T

    def one_group(weight: jax.Array, start: jax.Array) -> tuple[jax.Array, Any]:
        rows = jax.lax.dynamic_slice(weight, (start, 0), (group, out))
        scale, lowest = _steps(rows, bits, symmetric)
        corner = jax.lax.dynamic_slice(upper, (start, start), (group, group))

        def one_input(i: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            rows, codes, errors = carry
            code = _codes(rows[i], scale[0], None if lowest is None else lowest[0], bits)
            rounded = _values(code, scale[0], None if lowest is None else lowest[0], bits)
            error = (rows[i] - rounded) / corner[i, i]
            later = jnp.where(jnp.arange(group) > i, corner[i], 0.0)
            return rows - later[:, None] * error[None, :], codes.at[i].set(code), errors.at[i].set(error)

        blank = jnp.zeros((group, out))
        _, codes, errors = jax.lax.fori_loop(0, group, one_input, (rows, blank, blank))
        across = jax.lax.dynamic_slice(upper, (start, 0), (group, width))
        behind = jnp.where(jnp.arange(width)[None, :] >= start + group, across, 0.0)
        return weight - jnp.matmul(behind.T, errors, precision="highest"), (codes, scale, lowest)

    _, (codes, scale, lowest) = jax.lax.scan(one_group, weight, jnp.arange(0, width, group))
    return codes.reshape(width, out), scale[:, 0], None if lowest is None else lowest[:, 0]


def _packed(codes: jax.Array, bits: int) -> jax.Array:
    codes = codes.astype(jnp.uint8)
    if bits == 8:
        return codes
    *stacked, width, out = codes.shape
    pairs = codes.reshape(*stacked, width // 2, 2, out)
    return (pairs[..., 0, :] << 4) | pairs[..., 1, :]


def _check(path: str, width: int, bits: int, group: int) -> None:
    if bits not in (4, 8):
        raise ConfigError(f"got bits={bits}, expected 4 or 8.")
    check_group(path, "group", group, width)
