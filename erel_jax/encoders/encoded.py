"""What an encoder is and what it returns."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax

from erel_jax.module import Module

Refine = Callable[[jax.Array, jax.Array | None], jax.Array]
"""A network behind a tower: from every state float32[S, B, L, D] and the mask bool[B, L] or None to float[B, L, D]."""


@flax.struct.dataclass
class Encoded:
    """The states of one encoder call; what was not asked for is None.

    Attributes:
        embedding: float32[B, E], the pooled output (projected where the model has a projection), not normalized.
        tokens: float32[B, L, D], the last hidden state, when `tokens=True`.
        mask: bool[B, L] of real tokens, beside `tokens` (None where every token is real).
        sizes: float32[B, L], how many tokens each of `tokens` is the mean of, beside `tokens` of an encoder that merges
            tokens (None elsewhere).
        taps: float32[B, K, D], one pooled vector per asked state, when `taps` is given.
        hidden_states: float32[S, B, L, D], every state including the embedding output, when `hidden_states=True`.
    """

    embedding: jax.Array | None = None
    tokens: jax.Array | None = None
    mask: jax.Array | None = None
    sizes: jax.Array | None = None
    taps: jax.Array | None = None
    hidden_states: jax.Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """A tower: its module and what a user of the module must know.

    `module.apply(params, inputs, *, taps=None, embedding=True, tokens=False, hidden_states=False, refine=None,
    key=None, train=False) -> Encoded`, where `inputs` is

    - text: `{"ids": int32[B, L], "mask": bool[B, L]}`, right padded;
    - image: `{"pixels": float32[B, H, W, 3]}`, already normalized;
    - video: `{"video": float32[B, F, H, W, 3]}`, F normalized frames;
    - audio: `{"spectrogram": float32[B, T, M]}` (AST) or `{"features": float32[B, T, M]}` (Whisper), T frames of M mel
      bins as the model's feature extractor makes them.

    `taps` is a tuple of state indices: 0 is the embedding output, k the output of layer k. With `taps` and
    `embedding=False`, layers above the highest tap are not run. Embedding and tokens are read
    from the last state, or from what `refine` (a `Refine`) makes of all states in its place.

    Attributes:
        module: spec and apply.
        modality: "text", "image", "video" or "audio".
        config: the architecture's own frozen config.
        layers: number of transformer layers, so states 0 … layers exist.
        width: width D of the states.
        embedding_width: width E of `Encoded.embedding`.
    """

    module: Module
    modality: str
    config: Any
    layers: int
    width: int
    embedding_width: int
