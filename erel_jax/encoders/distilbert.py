"""DistilBERT: half of BERT's layers, distilled (Sanh et al., 2019), without type table and pooler."""

from dataclasses import dataclass
from typing import ClassVar

from erel_jax.encoders.bert import check_pooling, in_order, post_norm_block, text_tower
from erel_jax.encoders.encoded import Encoder
from erel_jax.layers import FLOAT32, BlockConfig, Precision

POOLINGS = ("cls", "mean")


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig:
    """The architecture of a DistilBERT encoder; the defaults are DistilBERT-base-uncased.

    Attributes:
        vocabulary: number of token ids.
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_width: feed-forward width F.
        max_positions: longest text in tokens.
        activation: name of the feed-forward activation.
        pooling: "cls" or "mean".
    """

    vocabulary: int = 30522
    width: int = 768
    layers: int = 6
    heads: int = 12
    mlp_width: int = 3072
    max_positions: int = 512
    activation: str = "gelu"
    pooling: str = "cls"

    eps: ClassVar[float] = 1e-12
    types: ClassVar[int] = 0

    def __post_init__(self):
        check_pooling(self.pooling, POOLINGS, "DistilBERT")
        _ = self.block

    @property
    def block(self) -> BlockConfig:
        """One layer of the stack."""
        return post_norm_block(self)

    @classmethod
    def base(cls, pooling: str = "cls") -> "DistilBertConfig":
        """DistilBERT-base-uncased: 66,362,880 parameters."""
        return cls(pooling=pooling)

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "DistilBertConfig":
        """A few thousand parameters, for tests."""
        return cls(vocabulary=64, width=16, layers=3, heads=2, mlp_width=32, max_positions=24, pooling=pooling)


def distilbert(config: DistilBertConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A DistilBERT encoder as a pure function of its parameters; options and results as in `bert`.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass.

    Returns:
        An `Encoder` of modality "text".
    """
    return text_tower(config, precision, rows=config.max_positions, place=in_order, remat=remat)
