"""Folding adapters into plain kernels for serving, and taking scales out again.

`merge` works for every adapter that is a linear map (LoRA, DoRA, (IA)³, VeRA), also several on one kernel. A bottleneck
has an activation inside and cannot be merged.
"""

from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.adapters.wrapping import is_kernel
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import Rescaled, fold

PyTree = Any


def merge(params: PyTree) -> PyTree:
    """The same model with plain kernels: every linear adapter folded in, computed in float32.

    Args:
        params: parameters as nested dicts, whose layers hold `kernel` and perhaps `bias`.

    Returns:
        The tree of the model without adapters, in the dtypes of its kernels; equal outputs up to rounding.

    Raises:
        ConfigError: an adapter is not linear, or lies on a quantized kernel, which cannot absorb a float update.
    """
    return _merged(params, "")


def _merged(node: Any, path: str) -> Any:
    if isinstance(node, list | tuple):
        return type(node)(_merged(child, f"{path}/{i}") for i, child in enumerate(node))
    if not isinstance(node, dict):
        return node
    if not is_kernel(node.get("kernel")):
        return {name: _merged(child, f"{path}/{name}".lstrip("/")) for name, child in node.items()}
    innermost = node["kernel"]
    while is_kernel(innermost) and hasattr(innermost, "base"):
        innermost = innermost.base
    if is_kernel(innermost):
        return node if innermost is node["kernel"] else _refuse(path, f"{type(innermost).__name__} base")
    if not hasattr(node["kernel"], "fold"):
        return _refuse(path, type(node["kernel"]).__name__)
    kernel, bias = fold(node["kernel"], node.get("bias"))
    return {**node, "kernel": kernel, "bias": bias} if "bias" in node else {**node, "kernel": kernel}


def _refuse(path: str, kind: str) -> Any:
    raise ConfigError(
        f"{path}/kernel: cannot merge into plain kernels through a {kind}. Linear adapters over arrays can be merged; "
        "dequantize first, or serve the model as it is."
    )


def unmerge_ia3(merged: PyTree, params: PyTree) -> PyTree:
    """The inverse of `merge` for (IA)³: divides kernels and biases by the scales held in `params`.

    Args:
        merged: a tree made by `merge`.
        params: the `Rescaled` tree it was made from (or a later one with the same scales).

    Returns:
        Parameters of `params`'s structure, equal to the original to about 1e-7 relative in float32.

    Raises:
        ConfigError: a scale is zero: what it erased cannot be brought back. Or there is another adapter beside the
            scales, which division does not take out. Values are looked at, so this runs outside jit.
    """
    if isinstance(params, list | tuple):
        return type(params)(unmerge_ia3(one, child) for one, child in zip(merged, params, strict=True))
    if not isinstance(params, dict):
        return merged
    kernel = params.get("kernel")
    if is_kernel(kernel) and hasattr(kernel, "base"):
        kinds = [type(node).__name__ for node in (kernel, getattr(kernel, "base", None)) if is_kernel(node)]
        if kinds != ["Rescaled"]:
            raise ConfigError(
                f"got a {' over a '.join(kinds)} kernel, expected Rescaled over arrays alone. "
                "Keep the original weights."
            )
    if not isinstance(kernel, Rescaled):
        return {name: unmerge_ia3(merged[name], child) for name, child in params.items()}
    inverses = [None if s is None else 1.0 / s for s in (kernel.input_scale, kernel.output_scale)]
    if not all(s is None or bool(jnp.all(jnp.isfinite(s))) for s in inverses):
        raise ConfigError("an (IA)³ scale is zero; what it erased cannot be brought back. Keep the original weights.")
    weight, bias = fold(Rescaled(merged["kernel"], *inverses), merged.get("bias"))
    restored = {**merged, "kernel": Rescaled(weight, kernel.input_scale, kernel.output_scale)}
    return {**restored, "bias": jax.numpy.asarray(bias)} if bias is not None else restored
