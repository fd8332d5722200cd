"""Int8 activations with one step per kernel, fixed by calibration, instead of one per row as it comes.

`dynamic` int8 kernels look for the largest magnitude of every row they multiply. With steps from calibration rows that
pass is saved, at the price that what is larger than any calibration row is cut off.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax import tree
from erel_jax.errors import ConfigError
from erel_jax.layers import Quantized
from erel_jax.module import ParamSpec, ones

PyTree = Any


def with_static_ranges(params: PyTree, largest: Mapping[str, jax.Array], *, headroom: float = 1.0) -> PyTree:
    """Int8 kernels whose activations are quantized in fixed steps.

    Args:
        params: a tree with `Quantized` kernels at the paths of `largest`.
        largest: `observe(..., LARGEST)` over calibration rows: float32[] of a kernel, float32[layers] of a stack.
        headroom: the range is this many times the largest magnitude seen.

    Returns:
        The same tree; these kernels have a `step` and multiply int8 by int8. Larger activations are cut off.

    Raises:
        ConfigError: a path is no int8 kernel, shapes do not fit, or the headroom is no finite number above 0.
    """
    if not 0 < headroom < math.inf:
        raise ConfigError(f"got headroom={headroom}, expected a finite number above 0.")
    kernels = tree.paths(params, is_leaf=_is_quantized)
    for path, value in largest.items():
        kernel = kernels.get(path)
        if not isinstance(kernel, Quantized):
            raise ConfigError(
                f"{path}: got {type(kernel).__name__}, expected an int8 kernel; call quantize_int8 first."
            )
        if value.shape != kernel.values.shape[:-2]:
            raise ConfigError(f"{path}: got ranges {list(value.shape)}, expected {list(kernel.values.shape[:-2])}.")

    def fix(path: str, kernel: Any) -> Any:
        if path not in largest:
            return kernel
        step = jnp.asarray(largest[path], jnp.float32) * (headroom / 127.0)
        return dataclasses.replace(kernel, step=step, dynamic=True)

    return tree.map_with_path(fix, params, is_leaf=_is_quantized)


def static_ranges_spec(spec: PyTree) -> PyTree:
    """The spec of `with_static_ranges` over all int8 kernels of a quantized spec (`quantize_spec`)."""

    def fix(kernel: Any) -> Any:
        if not _is_quantized(kernel):
            return kernel
        values = kernel.values
        return dataclasses.replace(kernel, step=ParamSpec(values.shape[:-2], values.axes[:-2], ones), dynamic=True)

    return jax.tree.map(fix, spec, is_leaf=_is_quantized)


def _is_quantized(node: Any) -> bool:
    return isinstance(node, Quantized)
