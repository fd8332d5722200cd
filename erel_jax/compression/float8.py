"""Kernels of 8-bit floats (e4m3): `quantize_float8` rewrites parameters, `float8_spec` a spec.

An e4m3 value keeps three bits behind the point at any magnitude, where int8 keeps even steps; int8 is closer for most
kernels, float8 for kernels with a few large weights per output. Products between 8-bit floats need a recent GPU.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.compression.chosen import ENCODER_KERNELS, map_kernel_specs, map_kernels, output_scale
from erel_jax.layers.float8 import to_float8
from erel_jax.layers.kernels import Float8
from erel_jax.module import ParamSpec, zeros

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

    def quantize(_: str, kernel: jax.Array) -> Float8:
        values, scale = to_float8(kernel, -2)
        return Float8(values, scale[..., 0, :], dynamic)

    return map_kernels(params, patterns, quantize)


def float8_spec(spec: PyTree, patterns: Sequence[str] = ENCODER_KERNELS, *, dynamic: bool = False) -> PyTree:
    """The spec of what `quantize_float8` returns; its initializers (values 0, scale 1) are placeholders.

    Raises:
        ConfigError: as `quantize_float8`.
    """

    def quantize(_: str, kernel: ParamSpec) -> Float8:
        values = ParamSpec(kernel.shape, kernel.axes, zeros, jnp.float8_e4m3fn)
        return Float8(values, output_scale(kernel), dynamic)

    return map_kernel_specs(spec, patterns, quantize)
