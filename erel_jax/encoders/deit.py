"""DeiT: the data-efficient ViT of Touvron et al. (2020), with a distillation token beside the class token."""

from dataclasses import dataclass

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.states import check_pixels
from erel_jax.encoders.vit import check_patches, class_token_tower, image_embeddings_spec
from erel_jax.layers import FLOAT32, BlockConfig, Precision, layer_norm_spec, stack_spec


@dataclass(frozen=True, kw_only=True)
class DeitConfig:
    """The architecture of a distilled DeiT encoder; the defaults are DeiT-B/16 at 224 pixels.

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
        """Number of tokens L with class and distillation token."""
        return self.patches + 2

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
    def base_16(cls) -> "DeitConfig":
        """DeiT-B/16 with distillation token: 85,800,192 parameters."""
        return cls()

    @classmethod
    def tiny(cls) -> "DeitConfig":
        """A few thousand parameters and 11 tokens, for tests."""
        return cls(image_size=12, patch=4, width=16, layers=3, heads=2, mlp_width=32)


def deit(config: DeitConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A DeiT encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "image". Taps are the class token of the residual stream, not normalized; the
        embedding is the class token after the final norm, and `tokens` is that norm's output.
    """
    trained = config.trained_size or config.image_size
    return class_token_tower(
        config,
        {
            "embeddings": image_embeddings_spec(config.patch, config.channels, trained, config.width, distilled=True),
            "layers": stack_spec(config.block, config.layers),
            "final_norm": layer_norm_spec(config.width),
        },
        lambda inputs: check_pixels(inputs, config.image_size, config.channels),
        precision,
        remat=remat,
    )
