"""What encoders with a plain stack of layers are described by, whatever they read."""

from dataclasses import dataclass

from erel_jax.layers import BlockConfig


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """A stack of layers with the norm before each sub-layer; the defaults are of base size.

    Attributes:
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_width: feed-forward width F.
        activation: name of the feed-forward activation.
        eps: epsilon of the layer norms.
        head_width: width of a head where heads were pruned; None means D / H.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: str = "gelu"
    eps: float = 1e-12
    head_width: int | None = None

    def __post_init__(self):
        _ = self.block

    @property
    def block(self) -> BlockConfig:
        """One layer of the stack."""
        return BlockConfig(
            width=self.width,
            heads=self.heads,
            mlp_width=self.mlp_width,
            activation=self.activation,
            norm="pre",
            eps=self.eps,
            head_width=self.head_width,
        )
