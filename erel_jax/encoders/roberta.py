"""RoBERTa and XLM-R: BERT's network (Liu et al., 2019; Conneau et al., 2020) with one type and shifted positions.

The position table has rows for padding: padded places read row `padding_id`, and the first real token reads the row
after it. Positions count real tokens, so they come from the mask. XLM-R is the same function with a vocabulary of 100
languages.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from erel_jax.encoders.bert import POOLINGS, check_pooling, post_norm_block, text_tower
from erel_jax.encoders.encoded import Encoder
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, Precision, embed_tokens


@dataclass(frozen=True, kw_only=True)
class RobertaConfig:
    """The architecture of a RoBERTa encoder; the defaults are RoBERTa-base.

    Attributes:
        vocabulary: number of token ids.
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_width: feed-forward width F.
        max_positions: longest text in tokens; the position table has `padding_id + 1` more rows.
        padding_id: id of the padding token, and the row of the position table that padded places read.
        types: rows of the type table; row 0 is used.
        activation: name of the feed-forward activation.
        eps: epsilon of the layer norms.
        pooling: "cls", "pooler" or "mean".
    """

    vocabulary: int = 50265
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    max_positions: int = 512
    padding_id: int = 1
    types: int = 1
    activation: str = "gelu"
    eps: float = 1e-5
    pooling: str = "cls"

    def __post_init__(self):
        check_pooling(self.pooling, POOLINGS, "RoBERTa")
        if not 0 <= self.padding_id < self.vocabulary:
            raise ConfigError(f"padding_id {self.padding_id} is outside the vocabulary of {self.vocabulary} ids.")
        _ = self.block

    @property
    def block(self) -> BlockConfig:
        """One layer of the stack."""
        return post_norm_block(self)

    @property
    def position_rows(self) -> int:
        """Rows of the position table."""
        return self.max_positions + self.padding_id + 1

    @classmethod
    def base(cls, pooling: str = "cls") -> "RobertaConfig":
        """RoBERTa-base: 124,055,040 parameters, 124,645,632 with the pooler."""
        return cls(pooling=pooling)

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "RobertaConfig":
        """A few thousand parameters, for tests."""
        return cls(vocabulary=64, width=16, layers=3, heads=2, mlp_width=32, max_positions=24, pooling=pooling)


@dataclass(frozen=True, kw_only=True)
class XlmRobertaConfig(RobertaConfig):
    """The architecture of an XLM-R encoder, see `RobertaConfig`; the defaults are XLM-R base."""

    vocabulary: int = 250002


def roberta(config: RobertaConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A RoBERTa or XLM-R encoder as a pure function of its parameters; options and results as in `bert`.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass.

    Returns:
        An `Encoder` of modality "text".
    """

    def after_padding(table: jax.Array, mask: jax.Array) -> jax.Array:
        real = mask.astype(jnp.int32)
        return embed_tokens(table, jnp.cumsum(real, axis=1) * real + config.padding_id)

    return text_tower(config, precision, rows=config.position_rows, place=after_padding, remat=remat)
