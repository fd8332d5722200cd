"""Qwen 2 and Qwen 3 (Yang et al., 2024, 2025) as text encoders.

Qwen 2 and 2.5 have biases on query, key and value; Qwen 3 has none, but a norm on each query and key head. Either may
have a window in its upper layers.
"""

from dataclasses import dataclass
from typing import ClassVar

from erel_jax.encoders.decoder import DecoderConfig
from erel_jax.encoders.llama import tiny_decoder
from erel_jax.layers.rotary import Rotary

_LONG = Rotary(theta=1000000.0)


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(DecoderConfig):
    """The architecture of a Qwen 2 or 2.5 encoder, see `DecoderConfig`; the defaults are Qwen2.5-7B."""

    vocabulary: int = 152064
    width: int = 3584
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    head_width: int = 128
    mlp_width: int = 18944
    max_positions: int = 131072
    rotary: Rotary = _LONG

    qkv_bias: ClassVar[bool] = True

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "Qwen2Config":
        """A few thousand parameters, for tests; every token sees every other, in the upper layers up to a distance."""
        return cls(**{**tiny_decoder(pooling), "head_width": 4}, window=6, windowed=(False, True, True))


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(DecoderConfig):
    """The architecture of a Qwen 3 encoder, see `DecoderConfig`; the defaults are Qwen3-8B."""

    vocabulary: int = 151936
    width: int = 4096
    layers: int = 36
    heads: int = 32
    kv_heads: int = 8
    head_width: int = 128
    mlp_width: int = 12288
    max_positions: int = 40960
    rotary: Rotary = _LONG

    qk_norm: ClassVar[bool] = True

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "Qwen3Config":
        """A few thousand parameters, for tests; every token sees every other."""
        return cls(**tiny_decoder(pooling))
