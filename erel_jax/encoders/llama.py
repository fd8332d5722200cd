"""LLaMA 2 and 3 (Touvron et al., 2023; Dubey et al., 2024) as text encoders."""

from dataclasses import dataclass

from erel_jax.encoders.decoder import DecoderConfig
from erel_jax.layers.rotary import Rotary


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """The architecture of a LLaMA encoder, see `DecoderConfig`; the defaults are LLaMA-2-7B."""

    vocabulary: int = 32000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_width: int = 128
    mlp_width: int = 11008
    max_positions: int = 4096
    eps: float = 1e-5

    @classmethod
    def llama_3_8b(cls) -> "LlamaConfig":
        """LLaMA-3-8B: 7,504,924,672 parameters, the published 8,030,261,248 less the language-model head."""
        return cls(vocabulary=128256, kv_heads=8, mlp_width=14336, max_positions=8192, rotary=Rotary(theta=500000.0))

    @classmethod
    def llama_3_70b(cls) -> "LlamaConfig":
        """LLaMA-3-70B: 69,503,033,344 parameters, the published 70,553,706,496 less the language-model head."""
        return cls(
            vocabulary=128256,
            width=8192,
            layers=80,
            heads=64,
            kv_heads=8,
            mlp_width=28672,
            max_positions=8192,
            rotary=Rotary(theta=500000.0),
        )

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "LlamaConfig":
        """A few thousand parameters, for tests; every token sees every other."""
        return cls(**tiny_decoder(pooling))


def tiny_decoder(pooling: str) -> dict:
    """Fields of every decoder's tiny preset."""
    return {
        "vocabulary": 64,
        "width": 16,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 6,
        "mlp_width": 48,
        "max_positions": 24,
        "causal": False,
        "pooling": pooling,
    }
