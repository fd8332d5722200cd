"""Mistral (Jiang et al., 2023) as a text encoder: LLaMA's layers, in the first models with a window in all of them."""

from dataclasses import dataclass

from erel_jax.encoders.decoder import DecoderConfig
from erel_jax.encoders.llama import tiny_decoder


@dataclass(frozen=True, kw_only=True)
class MistralConfig(DecoderConfig):
    """The architecture of a Mistral encoder, see `DecoderConfig`; the defaults are Mistral-7B-v0.1."""

    vocabulary: int = 32000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_width: int = 128
    mlp_width: int = 14336
    max_positions: int = 32768
    eps: float = 1e-5
    window: int | None = 4096

    @classmethod
    def mistral_7b(cls) -> "MistralConfig":
        """Mistral-7B-v0.1: 7,110,660,096 parameters, the published 7,241,732,096 less the language-model head."""
        return cls()

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "MistralConfig":
        """A few thousand parameters, for tests; every token sees six on both sides."""
        return cls(**tiny_decoder(pooling), window=6)
