"""What ViT and the image encoders of the same shape are described by."""

from dataclasses import dataclass
from typing import Self

from erel_jax.errors import ConfigError
from erel_jax.layers import BlockConfig


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The architecture of a ViT or of one of its relatives; the defaults are of base size.

    Attributes:
        image_size: height and width of the input in pixels, a multiple of `patch`.
        patch: side of a patch in pixels.
        channels: color channels.
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_width: feed-forward width F.
        activation: name of the feed-forward activation.
        eps: epsilon of the layer norms.
        trained_size: image size that the position table was trained for, where it is another one; the positions are
            then interpolated.
    """

    image_size: int = 224
    patch: int = 16
    channels: int = 3
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: str = "gelu"
    eps: float = 1e-12
    trained_size: int | None = None

    def __post_init__(self):
        check_patches(self.image_size, self.patch)
        check_patches(self.trained_size or self.image_size, self.patch)
        _ = self.block

    @property
    def patches(self) -> int:
        """Number of patches P."""
        return (self.image_size // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Number of tokens L with the class token."""
        return self.patches + 1

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
    def tiny(cls) -> Self:
        """A few thousand parameters and about 10 tokens, for tests."""
        return cls(image_size=12, patch=4, width=16, layers=3, heads=2, mlp_width=32)


def check_patches(image_size: int, patch: int) -> None:
    """Refuses an image size that is not a multiple of the patch size."""
    if patch < 1 or image_size < patch or image_size % patch:
        raise ConfigError(f"image_size {image_size} is not a multiple of patch {patch}.")
