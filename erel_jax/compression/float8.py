"""Kernels of 8-bit floats (e4m3): `quantize_float8` rewrites parameters, `float8_spec` a spec.

An e4m3 value keeps three bits behind the point at any magnitude, where int8 keeps even steps; int8 is closer for most
kernels, float8 for kernels with a few large weights per output. Products between 8-bit floats need a recent GPU.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from erel_jax import tree
from erel_jax.compression.int8 import ENCODER_KERNELS
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers.float8 import to_float8
from erel_jax.layers.kernels import Float8
from erel_jax.module import ParamSpec, ones, zeros

PyTree = Any


def quantize_float8(params: PyTree, patterns: Sequence[str] = ENCODER_KERNELS, *, dynamic: bool = False) -> PyTree:
    """Kernels rounded to 8-bit floats with one scale per output.

    Args:
        params: parameters with plain kernels float[D, F] or stacks float[layers, D, F] at the chosen paths.
        patterns: regular expressions over whole paths of kernels.
        dynamic: multiply 8-bit floats where the device can, see `layers.float8.Float8`.

    Returns:
        The same tree with `Float8` kernels. Values are looked at, so this runs outside jit.

    Raises:
        ConfigError: a pattern matches nothing, or a match is not a float matrix.
        NonFiniteError: a chosen kernel holds NaN or infinity.
    """
    chosen = tree.select(tree.paths(params), patterns)

    def quantize(path: str, leaf: Any) -> Any:
        if path not in chosen:
            return leaf
        _check(path, leaf.shape, leaf.dtype)
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise NonFiniteError(f"{path}: the kernel holds NaN or infinity; it cannot be quantized.")
        values, scale = to_float8(leaf, -2)
        return Float8(values, scale[..., 0, :], dynamic)

    return tree.map_with_path(quantize, params)


def float8_spec(spec: PyTree, patterns: Sequence[str] = ENCODER_KERNELS, *, dynamic: bool = False) -> PyTree:
    """The spec of what `quantize_float8` returns; its initializers (values 0, scale 1) are placeholders.

    Raises:
        ConfigError: as `quantize_float8`.
    """
    chosen = tree.select(tree.paths(spec), patterns)

    def quantize(path: str, leaf: ParamSpec) -> Any:
        if path not in chosen:
            return leaf
        _check(path, leaf.shape, leaf.dtype)
        scale = ParamSpec((*leaf.shape[:-2], leaf.shape[-1]), (*leaf.axes[:-2], leaf.axes[-1]), ones)
        return Float8(ParamSpec(leaf.shape, leaf.axes, zeros, jnp.float8_e4m3fn), scale, dynamic)

    return tree.map_with_path(quantize, spec)


def _check(path: str, shape: tuple[int, ...], dtype: Any) -> None:
    if len(shape) not in (2, 3) or not jnp.issubdtype(dtype, jnp.floating):
        raise ConfigError(f"{path}: got {jnp.dtype(dtype).name}{list(shape)}, expected a float kernel [D, F].")
