"""The walk that every rewriting of kernels takes: those chosen by pattern are checked and rewritten, the rest stays."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax import tree
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.module import ParamSpec, ones

PyTree = Any

ENCODER_KERNELS: tuple[str, ...] = (
    r"(?:.*/)?attention/(?:query|key|value|qkv|output)/kernel",
    r"(?:.*/)?mlp/(?:up|gate|gate_up|down)/kernel",
)
"""The kernels of a transformer stack: nearly all of an encoder's products. Embeddings, norms and heads stay float."""


def map_kernels(params: PyTree, patterns: Sequence[str], rewrite: Callable[[str, jax.Array], Any]) -> PyTree:
    """`rewrite(path, kernel)` in place of every chosen kernel. Values are looked at, so this runs outside jit.

    Args:
        params: parameters with plain kernels float[D, F] or stacks float[layers, D, F] at the chosen paths.
        patterns: regular expressions over whole paths of kernels.
        rewrite: what takes their place.

    Raises:
        ConfigError: a pattern matches nothing, or a match is not a float matrix.
        NonFiniteError: a chosen kernel holds NaN or infinity.
    """

    def checked(path: str, kernel: jax.Array) -> Any:
        if not bool(jnp.all(jnp.isfinite(kernel))):
            raise NonFiniteError(f"{path}: the kernel holds NaN or infinity; it cannot be quantized.")
        return rewrite(path, kernel)

    return _map_chosen(params, patterns, checked)


def map_kernel_specs(spec: PyTree, patterns: Sequence[str], rewrite: Callable[[str, ParamSpec], Any]) -> PyTree:
    """`map_kernels` over a spec.

    Raises:
        ConfigError: a pattern matches nothing, or a match is not a float matrix.
    """
    return _map_chosen(spec, patterns, rewrite)


def plain_kernels(params: PyTree, kind: type, widen: Callable[[Any], jax.Array], dtype: Any) -> PyTree:
    """`widen(leaf)` of the dtype in place of every leaf of a kind."""

    def plain(leaf: Any) -> Any:
        return widen(leaf).astype(dtype) if isinstance(leaf, kind) else leaf

    return jax.tree.map(plain, params, is_leaf=lambda leaf: isinstance(leaf, kind))


def output_scale(kernel: ParamSpec) -> ParamSpec:
    """The spec of one float32 scale per output: [F] or [layers, F]."""
    return ParamSpec((*kernel.shape[:-2], kernel.shape[-1]), (*kernel.axes[:-2], kernel.axes[-1]), ones)


def group_scale(kernel: ParamSpec, group: int) -> ParamSpec:
    """The spec of one float32 scale per group of inputs and output: [D / group, F] or [layers, D / group, F]."""
    *stacked, width, out = kernel.shape
    return ParamSpec((*stacked, width // group, out), (*kernel.axes[:-2], None, kernel.axes[-1]), ones)


def check_group(path: str, name: str, group: int, width: int) -> None:
    """Raises ConfigError unless the group is even and divides the inputs."""
    if group < 2 or group % 2 or width % group:
        raise ConfigError(f"{path}: {name}={group} must be even and divide the {width} inputs of the kernel.")


def _map_chosen(params: PyTree, patterns: Sequence[str], rewrite: Callable[[str, Any], Any]) -> PyTree:
    chosen = tree.select(tree.paths(params), patterns)

    def visit(path: str, leaf: Any) -> Any:
        if path not in chosen:
            return leaf
        if len(leaf.shape) not in (2, 3) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            got = f"{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}"
            raise ConfigError(f"{path}: got {got}, expected a float kernel [D, F].")
        return rewrite(path, leaf)

    return tree.map_with_path(visit, params)
