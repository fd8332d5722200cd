"""What ViT and the image encoders of the same shape are described by."""

from dataclasses import dataclass
from typing import Self

from erel_jax.encoders.stack_config import StackConfig
from erel_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ImageConfig(StackConfig):
    """The architecture of a ViT or of one of its relatives; the defaults are of base size.

    Attributes as of `StackConfig`, and:
        image_size: height and width of the input in pixels, a multiple of `patch`.
        patch: side of a patch in pixels.
        channels: color channels.
        trained_size: image size that the position table was trained for, where it is another one; the positions are
            then interpolated.
        merged_tokens: pairs of patches that each layer merges into one (ToMe, `layers.token_merging`), at most half of
            what it has; 0 for none.
    """

    image_size: int = 224
    patch: int = 16
    channels: int = 3
    trained_size: int | None = None
    merged_tokens: int = 0

    def __post_init__(self):
        check_merging(self.merged_tokens)
        check_patches(self.image_size, self.patch)
        check_patches(self.trained_size or self.image_size, self.patch)
        StackConfig.__post_init__(self)

    @property
    def patches(self) -> int:
        """Number of patches P."""
        return (self.image_size // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Number of tokens L with the class token."""
        return self.patches + 1

    @classmethod
    def tiny(cls) -> Self:
        """A few thousand parameters and about 10 tokens, for tests."""
        return cls(image_size=12, patch=4, width=16, layers=3, heads=2, mlp_width=32)


def check_patches(image_size: int, patch: int) -> None:
    """Refuses an image size that is not a multiple of the patch size."""
    if patch < 1 or image_size < patch or image_size % patch:
        raise ConfigError(f"image_size {image_size} is not a multiple of patch {patch}.")


def check_merging(merged_tokens: int) -> None:
    """Refuses what is no number of pairs."""
    if merged_tokens < 0 or merged_tokens != int(merged_tokens):
        raise ConfigError(f"got merged_tokens={merged_tokens}, expected 0 or more pairs per layer.")
