"""LoRA: low-rank updates of frozen kernels (Hu et al., arXiv 2106.09685), with the rank-stabilized scale of rsLoRA.

`lora` rewrites the *spec*: each chosen kernel W becomes `LowRank(W, A, B, scale)`, which computes
`x W + scale · (x A) B`. Bring pretrained weights into the rewritten spec with `module.fill(key, spec, params)`: it
takes W from the parameters it is given and draws A and B. `merge_lora` folds the update into plain kernels for serving
and `unmerge_lora` takes it out again.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax import tree
from erel_jax.adapters.checks import check_counts, check_finite
from erel_jax.adapters.wrapping import array_spec, low_rank_factors, wrap_kernels
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import LowRank

PyTree = Any


def lora(
    spec: PyTree, patterns: Sequence[str], *, rank: int = 8, alpha: float = 8.0, rank_stabilized: bool = False
) -> PyTree:
    """Wraps kernels of a spec in `LowRank`.

    A is drawn from U(±1/√D) (Kaiming-uniform with a = √5) and B is zero, so a freshly wrapped model computes what it
    did before.

    Args:
        spec: a module's spec; kernels are `[D, F]`, `[layers, D, F]`, or kernel pytrees over these (a `Quantized`
            base gives QLoRA).
        patterns: regular expressions over whole paths of kernels, for example `.*/(query|value)/kernel`; see
            `trainable.LORA_TARGETS`.
        rank: R.
        alpha: the scale is `alpha / rank`.
        rank_stabilized: use `alpha / √rank`, which keeps the update's size independent of the rank
            (arXiv 2312.03732).

    Returns:
        The rewritten spec. To wrap parameters, fill it: `module.fill(key, lora(spec, patterns), params)`.

    Raises:
        ConfigError: a pattern matches no kernel, a match is not a kernel spec, or the rank does not fit.
    """
    check_counts(rank=rank)
    check_finite(alpha=alpha)
    scale = alpha / math.sqrt(rank) if rank_stabilized else alpha / rank

    def wrap(path: str, kernel: Any) -> LowRank:
        return LowRank(kernel, *low_rank_factors(path, array_spec(path, kernel), rank), scale)

    return wrap_kernels(spec, patterns, wrap)


def merge_lora(params: PyTree) -> PyTree:
    """Folds every low-rank update into its kernel: `W + scale · A B`, computed in float32.

    Args:
        params: parameters with `LowRank` kernels over plain arrays.

    Returns:
        The same tree with plain kernels in W's dtype: the model as it was, without the cost of the update.

    Raises:
        ConfigError: a base is not a plain array (an int8 base cannot absorb a float update).
    """
    return _map_low_rank(lambda path, kernel: _shifted(path, kernel.base, kernel, +1.0), params)


def unmerge_lora(merged: PyTree, params: PyTree) -> PyTree:
    """The inverse of `merge_lora`: takes the updates held in `params` out of `merged`.

    Args:
        merged: a tree made by `merge_lora`.
        params: the `LowRank` tree it was made from (or a later one with the same factors).

    Returns:
        Parameters of `params`'s structure whose bases come from `merged`; equal to the original to about 1e-7
        relative in float32.
    """
    plain = tree.paths(merged)

    def restore(path: str, kernel: LowRank) -> LowRank:
        if path not in plain:
            raise ConfigError(f"merged parameters have no kernel {path!r}; pass the tree that merge_lora returned.")
        return dataclasses.replace(kernel, base=_shifted(path, plain[path], kernel, -1.0))

    return _map_low_rank(restore, params)


def _map_low_rank(fn: Any, params: PyTree) -> PyTree:
    def change(path: str, leaf: Any) -> Any:
        return fn(path, leaf) if isinstance(leaf, LowRank) else leaf

    return tree.map_with_path(change, params, is_leaf=lambda leaf: isinstance(leaf, LowRank))


def _shifted(path: str, weight: Any, kernel: LowRank, sign: float) -> jax.Array:
    if not hasattr(weight, "ndim"):
        raise ConfigError(f"{path}: cannot merge a low-rank update into a {type(weight).__name__}; it needs an array.")
    a, b = kernel.a.astype(jnp.float32), kernel.b.astype(jnp.float32)
    update = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return (weight.astype(jnp.float32) + sign * kernel.scale * update).astype(weight.dtype)
