"""ViT: the pre-norm image encoder of Dosovitskiy et al. (2020), with a class token and learned positions.

State 0 is the patch embedding with the class token in front, plus positions; state k is the residual stream after
layer k, before the final norm. The embedding is the class token of the final norm's output. There is no pooler:
ViT-B/16 has 85,798,656 parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.states import block_layer, check_pixels
from erel_jax.encoders.tower import Entry, tower
from erel_jax.errors import ConfigError
from erel_jax.layers import (
    FLOAT32,
    BlockConfig,
    Precision,
    embed_patches,
    first_token,
    layer_norm,
    layer_norm_spec,
    stack_spec,
)
from erel_jax.module import ParamSpec, normal, zeros


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """The architecture of a ViT encoder; the defaults are ViT-B/16 at 224 pixels.

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

    def __post_init__(self):
        check_patches(self.image_size, self.patch)
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
    def base_16(cls) -> "VitConfig":
        """ViT-B/16 at 224 pixels: 85,798,656 parameters, 197 tokens."""
        return cls()

    @classmethod
    def tiny(cls) -> "VitConfig":
        """A few thousand parameters and 10 tokens, for tests."""
        return cls(image_size=12, patch=4, width=16, layers=3, heads=2, mlp_width=32)


def check_patches(image_size: int, patch: int) -> None:
    """Refuses an image size that is not a multiple of the patch size."""
    if patch < 1 or image_size < patch or image_size % patch:
        raise ConfigError(f"image_size {image_size} is not a multiple of patch {patch}.")


def vit(config: VitConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A ViT encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "image". Taps are the class token of the residual stream, not normalized; `tokens` is
        the output of the final norm. There is no dropout: `key` and `train` are accepted and change nothing.

    Numerics: norms, softmax and activations run in float32; the residual stream is `precision.accumulate`.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        pixels = check_pixels(inputs, config.image_size, config.channels)
        layer = block_layer(config.block, precision, None)
        return Entry(embed_image(params["embeddings"], pixels, config.patch, precision), layer, first_token, None)

    def normalize(params: Any, state: jax.Array) -> jax.Array:
        return layer_norm(params["final_norm"], state, config.eps)

    return tower(
        modality="image",
        config=config,
        spec={
            "embeddings": image_embeddings_spec(config.patch, config.channels, config.patches, config.width, bias=True),
            "layers": stack_spec(config.block, config.layers),
            "final_norm": layer_norm_spec(config.width),
        },
        precision=precision,
        enter=enter,
        head=normalize,
        top=normalize,
        embedding_width=config.width,
        remat=remat,
    )


def image_embeddings_spec(patch: int, channels: int, patches: int, width: int, *, bias: bool) -> dict[str, Any]:
    """Class token, position table and patch projection of an image encoder.

    Args:
        patch: side of a patch in pixels.
        channels: color channels.
        patches: number of patches P; the position table has P + 1 rows.
        width: model width D.
        bias: whether the patch projection has one (ViT does, CLIP does not).
    """
    projection = {"kernel": ParamSpec((patch * patch * channels, width), (None, "embed"), normal(0.02))}
    if bias:
        projection["bias"] = ParamSpec((width,), ("embed",), zeros)
    return {
        "cls": {"vector": ParamSpec((width,), ("embed",), normal(0.02))},
        "position": {"table": ParamSpec((patches + 1, width), (None, "embed"))},
        "patch": projection,
    }


def embed_image(params: Any, pixels: jax.Array, patch: int, precision: Precision) -> jax.Array:
    """Class token and patches with their positions.

    Args:
        params: parameters of `image_embeddings_spec`.
        pixels: float[B, H, W, C].
        patch: side of a patch in pixels.
        precision: dtypes of the projection.

    Returns:
        float[B, P + 1, D] in `precision.accumulate`.
    """
    wide = precision.accumulate
    patches = embed_patches(params["patch"], pixels, patch, precision)
    first = jnp.broadcast_to(params["cls"]["vector"].astype(wide), (pixels.shape[0], 1, patches.shape[-1]))
    positions = params["position"]["table"].astype(wide)
    return jnp.concatenate([first, patches], axis=1) + positions[None]
