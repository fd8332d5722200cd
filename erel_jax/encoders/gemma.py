"""Gemma 2 and Gemma 3 (Gemma Team, 2024, 2025) as text encoders.

Both scale the embeddings by √D, store the distance of norm scales from 1, norm before and after each sub-layer and
have a window in some layers: every other one in Gemma 2, five of six in Gemma 3. Gemma 2 caps the scores; Gemma 3 norms
queries and keys instead, and turns positions faster in its windowed layers.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from erel_jax.encoders.decoder import DecoderConfig
from erel_jax.encoders.llama import tiny_decoder
from erel_jax.layers.rotary import Rotary

_LONG, _SHORT = Rotary(theta=1000000.0), Rotary(theta=10000.0)


@dataclass(frozen=True, kw_only=True)
class _GemmaConfig(DecoderConfig):
    """What both generations share, see `DecoderConfig`.

    Attributes:
        query_width: scores are divided by the square root of this number, which need not be K.
        score_cap: bound of the scores, None for none.
    """

    activation: str = "gelu_pytorch_tanh"
    query_width: float = 256.0
    score_cap: float | None = None

    norm_offset: ClassVar[float] = 1.0
    norm_after: ClassVar[bool] = True

    @property
    def embedding_factor(self) -> float:
        """Factor of the token embeddings."""
        return math.sqrt(self.width)

    @property
    def score_scale(self) -> float:
        """Factor of the scores."""
        return self.query_width**-0.5

    @property
    def score_bound(self) -> float | None:
        """Bound of the scores, None for none."""
        return self.score_cap


@dataclass(frozen=True, kw_only=True)
class Gemma2Config(_GemmaConfig):
    """The architecture of a Gemma 2 encoder; the defaults are Gemma-2-2B, 2,614,341,888 parameters as published."""

    vocabulary: int = 256000
    width: int = 2304
    layers: int = 26
    heads: int = 8
    kv_heads: int = 4
    head_width: int = 256
    mlp_width: int = 9216
    max_positions: int = 8192
    window: int | None = 4096
    windowed: tuple[bool, ...] | None = (True, False) * 13
    score_cap: float | None = 50.0

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "Gemma2Config":
        """A few thousand parameters, for tests; every token sees every other, in some layers up to a distance."""
        return cls(**tiny_decoder(pooling), window=6, windowed=(True, False, True), query_width=100.0, score_cap=2.0)


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(_GemmaConfig):
    """The architecture of a Gemma 3 text encoder; the defaults are Gemma-3-1B, 999,885,952 parameters as published.

    Attributes:
        local_rotary: how fast positions turn in the layers with the window.
    """

    vocabulary: int = 262144
    width: int = 1152
    layers: int = 26
    heads: int = 4
    kv_heads: int = 1
    head_width: int = 256
    mlp_width: int = 6912
    max_positions: int = 32768
    rotary: Rotary = _LONG
    local_rotary: Rotary = _SHORT
    window: int | None = 512
    windowed: tuple[bool, ...] | None = ((True,) * 5 + (False,)) * 4 + (True, True)

    qk_norm: ClassVar[bool] = True

    @property
    def window_rotary(self) -> Rotary:
        """How fast positions turn in layers with the window."""
        return self.local_rotary

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "Gemma3Config":
        """A few thousand parameters, for tests; every token sees every other, in some layers up to a distance."""
        return cls(**tiny_decoder(pooling), window=6, windowed=(True, False, True), query_width=100.0)
