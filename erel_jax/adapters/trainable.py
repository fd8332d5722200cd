"""Which parameters train: named sets of patterns.

The sets are patterns over the paths of one encoder. A pattern selects wherever the encoder sits in a larger model once
the caller prefixes it, for example `towers/text/(?:…)`; heads and user encoders are patterns of the caller.

Parameters that are frozen still run in the forward pass; `split` gives two trees so that gradients, optimizer state
and checkpoints exist for the trainable one alone.
"""

from collections.abc import Sequence
from typing import Any

from erel_jax import tree

PyTree = Any

LORA_TARGETS: tuple[str, ...] = (r".*/attention/(?:query|value|qkv)/kernel",)
"""Kernels that LoRA wraps unless told otherwise: query and value projections of every layer, or the fused kernel."""

HOULSBY_TARGETS: tuple[str, ...] = (r".*/attention/output/kernel", r".*/mlp/down/kernel")
"""Kernels that a serial bottleneck adapter follows: the last product of each sub-layer, before its residual sum."""

IA3_OUTPUT_TARGETS: tuple[str, ...] = (r".*/attention/(?:key|value|qkv)/kernel",)
"""Kernels whose outputs (IA)³ scales; of a fused kernel the queries too, as in peft."""

IA3_INPUT_TARGETS: tuple[str, ...] = (r".*/mlp/down/kernel",)
"""Kernels whose inputs (IA)³ scales."""

FULL: tuple[str, ...] = (r"(?!(?:.*/)?pooler/).*",)
"""Everything but a BERT pooler, which the released baselines keep frozen because no loss reaches it."""

BITFIT: tuple[str, ...] = (r"(?:.*/)?bias",)
"""Every bias of the encoder: projections, MLPs, layer norms, embeddings, pooler."""

LORA_FACTORS: tuple[str, ...] = (r".*/kernel(?:/base)*/[ab]",)
"""The low-rank factors alone."""

LORA: tuple[str, ...] = (f"{LORA_FACTORS[0]}|.*/attention/(?:query|value|qkv)/bias",)
"""The low-rank factors and, where they exist, the biases beside them, as the released baselines train them."""

HOULSBY: tuple[str, ...] = (r".*/kernel(?:/base)*/(?:down|up)(?:_bias)?",)
"""Weights and biases of bottleneck adapters."""


DORA: tuple[str, ...] = (r".*/kernel(?:/base)*/(?:a|b|magnitude_shift)",)
"""The low-rank factors and magnitudes of DoRA."""

IA3: tuple[str, ...] = (r".*/kernel(?:/base)*/(?:input|output)_scale",)
"""The vectors of (IA)³."""

VERA: tuple[str, ...] = (r".*/kernel(?:/base)*/(?:inner|outer)",)
"""The vectors of VeRA; its random factors stay frozen."""

PARALLEL: tuple[str, ...] = (r".*/kernel(?:/base)*/extra(?:_bias)?",)
"""Weights and biases of parallel adapters."""

COMPACTER: tuple[str, ...] = (r".*/kernel(?:/base)*/(?:down|up)(?:_bias|/rules|/left|/right)",)
"""Factors and biases of Compacter's bottlenecks."""

PROMPT: tuple[str, ...] = (r"prompt/vectors",)
"""The vectors of soft prompts."""

PREFIX: tuple[str, ...] = (r"prefix/.*",)
"""Keys and values of a prefix, or the network that makes them."""

LAYER_NORM: tuple[str, ...] = (r"(?:.*/)?(?:\w+_)?norm/(?:scale|bias)",)
"""Scales and shifts of every norm."""

LIT: tuple[str, ...] = (r"(?<=/text/)(?!pooler/).*",)
"""Every weight of the tower called text; the other towers are locked (arXiv 2111.07991)."""

K_ADAPTER: tuple[str, ...] = (r"k_adapter/.*",)
"""Everything of a K-adapter."""

TOP_LAYERS: tuple[str, ...] = (r"top_layers/.*",)
"""The layers above the cut of `adapters.partial_layers`."""


def split(params: PyTree, include: Sequence[str], exclude: Sequence[str] = ()) -> tuple[PyTree, PyTree]:
    """Splits parameters in (trainable, frozen), with None in the holes; `tree.merge` joins them again.

    Args:
        params: parameters, specs or abstract arrays.
        include: patterns over whole paths that train.
        exclude: patterns that do not train although `include` matches them.

    Raises:
        ConfigError: a pattern of either list matches nothing.
    """
    names = list(tree.paths(params))
    chosen = tree.select(names, include) - tree.select(names, exclude)
    trains = tree.map_with_path(lambda path, leaf: leaf if path in chosen else None, params)
    frozen = tree.map_with_path(lambda path, leaf: None if path in chosen else leaf, params)
    return trains, frozen
