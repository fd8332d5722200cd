"""QLoRA: low-rank updates over a base stored in 8 or 4 bits (Dettmers et al. 2023, arXiv 2305.14314).

Every large kernel of the stack is quantized, those that an update lies on and the others alike; the factors train in
float. The base never changes, so rounding it once is all the error there is.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from erel_jax import tree
from erel_jax.adapters.lora import lora
from erel_jax.adapters.trainable import LORA_TARGETS
from erel_jax.compression.chosen import ENCODER_KERNELS
from erel_jax.compression.int8 import quantize_int8, quantize_spec
from erel_jax.compression.nf4 import BLOCK, nf4_spec, quantize_nf4
from erel_jax.errors import ConfigError, suggest

PyTree = Any
BITS = ("int8", "nf4")


def qlora(
    spec: PyTree,
    base: Literal["int8", "nf4"] = "nf4",
    patterns: Sequence[str] = LORA_TARGETS,
    *,
    rank: int = 8,
    alpha: float = 8.0,
) -> PyTree:
    """Wraps kernels of a quantized spec in `LowRank`.

    Args:
        spec: an encoder's spec. Bring parameters in with `module.fill(key, spec, quantized_base(params, base))`.
        base: how the frozen kernels are stored: int8 with a scale per output (activations stay float), or NF4.
        patterns, rank, alpha: as in `lora`.

    Returns:
        The rewritten spec; `trainable.LORA_FACTORS` selects what trains.

    Raises:
        ConfigError: an unknown base, or as `lora` and the quantizers.
    """
    return lora(quantized_spec(spec, base), patterns, rank=rank, alpha=alpha)


def quantized_base(params: PyTree, base: Literal["int8", "nf4"] = "nf4") -> PyTree:
    """An encoder's parameters with the kernels of its stack quantized, for a spec made by `qlora`.

    NF4 shares a scale among 64 inputs, or as many as divide the kernel's width together with it.

    Raises:
        ConfigError: an unknown base, or a kernel that cannot be quantized.
        NonFiniteError: a kernel holds NaN or infinity.
    """
    _check(base)
    if base == "int8":
        return quantize_int8(params, ENCODER_KERNELS, dynamic=False)
    return _by_block(params, quantize_nf4)


def quantized_spec(spec: PyTree, base: Literal["int8", "nf4"] = "nf4") -> PyTree:
    """The spec of what `quantized_base` returns.

    Raises:
        ConfigError: as `quantized_base`.
    """
    _check(base)
    return quantize_spec(spec, ENCODER_KERNELS, dynamic=False) if base == "int8" else _by_block(spec, nf4_spec)


def _by_block(nodes: PyTree, rewrite: Callable[..., PyTree]) -> PyTree:
    leaves = tree.paths(nodes)
    blocks: dict[int, list[str]] = {}
    for path in sorted(tree.select(leaves, ENCODER_KERNELS)):
        blocks.setdefault(math.gcd(leaves[path].shape[-2], BLOCK), []).append(re.escape(path))
    for block, patterns in blocks.items():
        nodes = rewrite(nodes, patterns, block=block)
    return nodes


def _check(base: str) -> None:
    if base not in BITS:
        raise ConfigError(f"unknown base {base!r}. {suggest(base, BITS)}")
