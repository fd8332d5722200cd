"""Prompt tuning: trained vectors in the sequence of a frozen encoder (Lester et al. 2021, arXiv 2104.08691).

The vectors stand before the token embeddings of a text and get positions and segments like tokens; in an image, video
or sound they stand behind state 0 (shallow visual prompts, Jia et al. 2022, arXiv 2203.12119), without positions, where
attention does not care for order. Nothing is read from their slots: a mean leaves them out, the first token stays the
text's own. The prompts come in addition to the text, of which nothing is lost; where both together exceed the encoder's
positions, it says so.
"""

import math
from typing import Any

from erel_jax.adapters.checks import check_counts
from erel_jax.errors import ConfigError
from erel_jax.module import ParamSpec, normal, uniform

PyTree = Any


def prompt_tuning(spec: PyTree, *, tokens: int = 10) -> PyTree:
    """Adds soft prompts to an encoder's spec.

    Unlike other adapters, prompts change the outputs as soon as they are there. A text's start like tokens of BERT,
    N(0, 0.02²); those of other modalities from U(±√(6/(3·D))), Xavier's bound with D for both widths being that of the
    visual prompts' release up to the patch's share in it.

    Args:
        spec: an encoder's spec. Bring parameters in with `module.fill`; the encoder's `apply` finds the prompts there.
        tokens: number of vectors T.

    Returns:
        The spec with `prompt/vectors` [T, D]; `trainable.PROMPT` selects it.

    Raises:
        ConfigError: T is below 1, or the encoder has prompts already.
    """
    check_new(spec, "prompt", tokens)
    width = stack_width(spec)
    is_text = "token" in spec["embeddings"]
    init = normal(0.02) if is_text else uniform(math.sqrt(6 / (3 * width)))
    return {**spec, "prompt": {"vectors": ParamSpec((tokens, width), (None, "embed"), init)}}


def stack_width(spec: PyTree) -> int:
    """Width D of the states of an encoder, read from its spec."""
    return spec["layers"]["mlp_norm"]["scale"].shape[-1]


def check_new(spec: PyTree, branch: str, tokens: int) -> None:
    """Refuses fewer than one trained slot, or a second branch of the kind.

    Raises:
        ConfigError: either is the case.
    """
    check_counts(tokens=tokens)
    if branch in spec:
        raise ConfigError(f"the encoder has a {branch} already; one is all it can have.")
