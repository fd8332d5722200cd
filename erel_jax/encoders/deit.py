"""DeiT: the data-efficient ViT of Touvron et al. (2020), with a distillation token beside the class token."""

from dataclasses import dataclass

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.image_config import ImageConfig
from erel_jax.encoders.states import check_pixels
from erel_jax.encoders.vit import class_token_tower, image_embeddings_spec
from erel_jax.layers import FLOAT32, Precision, layer_norm_spec, stack_spec


@dataclass(frozen=True, kw_only=True)
class DeitConfig(ImageConfig):
    """The architecture of a distilled DeiT encoder; the defaults are DeiT-B/16 at 224 pixels.

    Attributes as of `ImageConfig`.
    """

    @property
    def tokens(self) -> int:
        """Number of tokens L with class and distillation token."""
        return self.patches + 2

    @classmethod
    def base_16(cls) -> "DeitConfig":
        """DeiT-B/16 with distillation token: 85,800,192 parameters."""
        return cls()


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
        protected=2,
    )
