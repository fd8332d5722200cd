"""Several LoRA adapters on one model, chosen per example: one batch serves many tasks or customers.

bank = stack_adapters([english, german])           # once
embed = jax.jit(lambda bank, index, batch: encoder.module.apply(choose(bank, index), batch).embedding)
embed(bank, jnp.array([0, 1, 1, -1]), batch)       # -1: the model without an adapter
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from erel_jax import tree
from erel_jax.adapters.wrapping import is_kernel
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import LowRank, LowRankBank

PyTree = Any


def stack_adapters(adapters: Sequence[PyTree]) -> PyTree:
    """One tree with `LowRankBank` kernels from several trees with `LowRank` ones.

    Ranks may differ (factors are padded with zeros) and so may scales (they go into B).

    Args:
        adapters: parameters of the same model, each with its own factors on the same kernels; T of them.

    Returns:
        Parameters for `choose`; what is not a factor is that of the first tree.

    Raises:
        ConfigError: nothing to stack, kernels that differ in kind, or trees that differ beside their factors (another
            base, or biases trained along: one model cannot hold both). Values are looked at, so this runs outside jit.
    """
    if not adapters:
        raise ConfigError("got no adapters to stack.")
    nodes = [tree.paths(params, is_leaf=is_kernel) for params in adapters]
    if any(set(other) != set(nodes[0]) for other in nodes):
        raise ConfigError(
            "the trees to stack have different parameters; they must adapt the same kernels of one model."
        )
    if not any(isinstance(node, LowRank) for node in nodes[0].values()):
        kinds = sorted({type(node).__name__ for node in nodes[0].values() if is_kernel(node)})
        found = f"only {', '.join(kinds)}" if kinds else "none of any kind"
        raise ConfigError(
            f"the trees to stack have no LowRank kernel ({found}). Wrap kernels with adapters.lora or qlora."
        )

    def stacked(path: str, first: Any) -> Any:
        others = [node[path] for node in nodes]
        if any(isinstance(node, LowRank) != isinstance(first, LowRank) for node in others):
            raise ConfigError(f"{path}: a LoRA kernel in one tree only; they must adapt the same kernels.")
        shared = [node.base if isinstance(node, LowRank) else node for node in others]
        if not all(_equal(shared[0], node) for node in shared[1:]):
            raise ConfigError(f"{path}: trees differ beside their LoRA factors; one model cannot hold both.")
        return _bank(others) if isinstance(first, LowRank) else first

    return tree.map_with_path(stacked, adapters[0], is_leaf=is_kernel)


def choose(params: PyTree, index: jax.Array | np.ndarray | Sequence[int]) -> PyTree:
    """Says which adapter each example takes; cheap, and meant for use inside a jitted function.

    Args:
        params: a tree made by `stack_adapters`.
        index: int32[B] (or a list) in [-1, T), one entry per example of the batch that follows; an entry beyond gives
            NaN for its example where its value is known only inside a compiled function.

    Returns:
        Parameters for the model's `apply` on that batch.

    Raises:
        ConfigError: the tree holds no bank, the index is not a vector of integers, or an entry is out of range.
    """
    index = index if isinstance(index, jax.Array | np.ndarray) else np.asarray(index)
    if index.ndim != 1 or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ConfigError(f"got an index {index.dtype}{list(index.shape)}, expected int32[B].")
    banks = [node for node in tree.paths(params, is_leaf=is_kernel).values() if isinstance(node, LowRankBank)]
    if not banks:
        raise ConfigError("the parameters hold no bank of adapters. Make one with adapters.stack_adapters.")
    if not isinstance(index, Tracer):
        adapters, values = banks[0].a.shape[-3], np.asarray(index)
        strange = sorted(set(values[(values < -1) | (values >= adapters)].tolist()))
        if strange:
            raise ConfigError(
                f"got index {strange} of {adapters} adapters, expected 0 to {adapters - 1}, or -1 for none."
            )

    # Narrow integers could not hold the number of adapters, by which an entry beyond is told.
    index = jnp.asarray(index, jnp.int32) if index.dtype.itemsize < 4 else index

    def put(node: Any) -> Any:
        if not isinstance(node, LowRankBank):
            return node
        return dataclasses.replace(node, index=jnp.broadcast_to(index, (*node.a.shape[:-3], *index.shape)))

    return jax.tree.map(put, params, is_leaf=is_kernel)


def _bank(kernels: Sequence[LowRank]) -> LowRankBank:
    rank = max(kernel.a.shape[-1] for kernel in kernels)
    # An adapter of scale zero changes nothing, but the others' factors cannot be told in multiples of it.
    scale = next((kernel.scale for kernel in kernels if kernel.scale), 1.0)

    def padded(x: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(x, [(0, rank - n if i == x.ndim + axis else 0) for i, n in enumerate(x.shape)])

    a = jnp.stack([padded(kernel.a, -1) for kernel in kernels], axis=-3)
    b = jnp.stack([padded(kernel.b, -2) * (kernel.scale / scale) for kernel in kernels], axis=-3)
    return LowRankBank(kernels[0].base, a, b, None, scale)


def _equal(one: Any, other: Any) -> bool:
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a is b or np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
