"""DINOv2: the self-supervised image encoder of Oquab et al. (2023).

A ViT whose sub-layers are scaled per channel before they join the residual stream. It takes images of any size in
whole patches: positions are interpolated to the grid at hand, as the original always does. The embedding is the class
token after the final norm.
"""

from dataclasses import dataclass

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.signals import check_image_grid
from erel_jax.encoders.vit import check_patches, class_token_tower, image_embeddings_spec
from erel_jax.layers import FLOAT32, BlockConfig, Precision, layer_norm_spec, stack_spec


@dataclass(frozen=True, kw_only=True)
class Dinov2Config:
    """The architecture of a DINOv2 encoder; the defaults are ViT-B/14 with positions for 518 pixels.

    Attributes:
        image_size: image size of the position table in pixels, a multiple of `patch`; inputs may have another size.
        patch: side of a patch in pixels.
        channels: color channels.
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_ratio: feed-forward width over D.
        activation: name of the feed-forward activation.
        eps: epsilon of the layer norms.
    """

    image_size: int = 518
    patch: int = 14
    channels: int = 3
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    activation: str = "gelu"
    eps: float = 1e-6

    def __post_init__(self):
        check_patches(self.image_size, self.patch)
        _ = self.block

    @property
    def patches(self) -> int:
        """Number of patches P of an image of `image_size`."""
        return (self.image_size // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Number of tokens L of an image of `image_size`, with the class token."""
        return self.patches + 1

    @property
    def mlp_width(self) -> int:
        """Feed-forward width F."""
        return self.mlp_ratio * self.width

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
        )

    @classmethod
    def base_14(cls) -> "Dinov2Config":
        """DINOv2 ViT-B/14: 86,579,712 parameters."""
        return cls()

    @classmethod
    def tiny(cls) -> "Dinov2Config":
        """A few thousand parameters and 10 tokens, for tests."""
        return cls(image_size=12, patch=4, width=16, layers=3, heads=2, mlp_ratio=2)


def dinov2(config: Dinov2Config, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A DINOv2 encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "image" for pixels float32[B, H, W, C] with H and W multiples of the patch. Taps are
        the class token of the residual stream, not normalized; `tokens` is the output of the final norm.
    """
    return class_token_tower(
        config,
        {
            "embeddings": image_embeddings_spec(config.patch, config.channels, config.image_size, config.width),
            "layers": stack_spec(config.block, config.layers, branch_scale=1.0),
            "final_norm": layer_norm_spec(config.width),
        },
        lambda inputs: check_image_grid(inputs, config.patch, config.channels),
        precision,
        remat=remat,
    )
