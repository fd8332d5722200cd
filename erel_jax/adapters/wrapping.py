"""Wrapping chosen kernels of a spec, shared by the adapters that live on kernels."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from erel_jax import tree
from erel_jax.adapters.checks import check_counts, check_patterns
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import Float8, Grouped, Nf4, Quantized
from erel_jax.module import Initializer, ParamSpec, uniform, zeros

PyTree = Any
_NO_KERNELS = ("table", "vector", "vectors")


def is_kernel(node: Any) -> bool:
    """True for kernel pytrees (`LowRank`, `Quantized`, `Bottleneck` …): nodes that contract themselves."""
    return callable(getattr(node, "dense", None))


def wrap_kernels(spec: PyTree, patterns: Sequence[str], wrap: Callable[[str, Any], Any]) -> PyTree:
    """Replaces every kernel whose path a pattern matches by `wrap(path, kernel)`.

    Args:
        spec: a module's spec. A kernel pytree counts as one node with the path of the layer's `kernel`.
        patterns: regular expressions over whole paths.
        wrap: the rewrite of one kernel.

    Raises:
        ConfigError: a pattern matches nothing, or a string was given in place of a list.
    """
    check_patterns(patterns)
    chosen = tree.select(tree.paths(spec, is_leaf=is_kernel), patterns)
    return tree.map_with_path(lambda path, node: wrap(path, node) if path in chosen else node, spec, is_leaf=is_kernel)


def array_spec(path: str, kernel: Any) -> ParamSpec:
    """The `ParamSpec` of the plain matrix inside a kernel's spec.

    Raises:
        ConfigError: the node is no kernel: an array instead of a spec, or a bias, a norm or a table.
    """
    inner = kernel
    while is_kernel(inner):
        if isinstance(inner, Nf4 | Grouped):
            inner = inner.codes if getattr(inner, "bits", 4) == 8 else _unpacked(inner.codes)
        else:
            inner = inner.values if isinstance(inner, Quantized | Float8) else inner.base
    if not isinstance(inner, ParamSpec):
        raise ConfigError(
            f"{path}: got {type(inner).__name__}, expected a spec. Adapters rewrite specs; bring parameters into the "
            "rewritten spec with module.fill(key, spec, params)."
        )
    # A table has the shape of a kernel, but its rows are looked up, which no adapter would see.
    if path.rpartition("/")[2] in _NO_KERNELS:
        raise ConfigError(f"{path}: got a table, expected a kernel; adapters go on what is multiplied.")
    if len(inner.shape) - (inner.axes[:1] == ("layers",)) != 2:
        raise ConfigError(f"{path}: got shape {inner.shape}, expected a kernel [D, F] or a stack [layers, D, F].")
    return inner


def _unpacked(codes: Any) -> Any:
    """The spec of a matrix from that of its codes, two rows of which share a byte."""
    if not isinstance(codes, ParamSpec):
        return codes
    *stacked, half, out = codes.shape
    return dataclasses.replace(codes, shape=(*stacked, 2 * half, out))


def beside(weight: ParamSpec, shape: Sequence[int], axes: Sequence[str | None], init: Initializer) -> ParamSpec:
    """A new parameter beside a kernel: one per layer where the kernel is a stack.

    Args:
        weight: the kernel's spec, see `array_spec`.
        shape, axes, init: of the new parameter of one layer.
    """
    return ParamSpec((*weight.shape[:-2], *shape), (*weight.axes[:-2], *axes), init)


def low_rank_factors(path: str, weight: ParamSpec, rank: int) -> tuple[ParamSpec, ParamSpec]:
    """Specs of A [D, R], drawn from U(±1/√D) (Kaiming-uniform with a = √5), and of B [R, F], zero.

    Raises:
        ConfigError: the rank is below 1 or larger than a side of the kernel.
    """
    width, out = weight.shape[-2:]
    check_counts(rank=rank)
    if rank > min(width, out):
        raise ConfigError(f"{path}: rank {rank} is larger than a side of the kernel [{width}, {out}].")
    a = beside(weight, (width, rank), (weight.axes[-2], "rank"), uniform(1 / math.sqrt(width)))
    return a, beside(weight, (rank, out), ("rank", weight.axes[-1]), zeros)
