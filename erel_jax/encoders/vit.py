"""ViT: the pre-norm image encoder of Dosovitskiy et al. (2020), with a class token and learned positions.

State 0 is the patch embedding with the class token in front, plus positions; state k is the residual stream after
layer k, before the final norm. The embedding is the class token of the final norm's output. There is no pooler:
ViT-B/16 has 85,798,656 parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.image_config import ImageConfig
from erel_jax.encoders.states import check_pixels
from erel_jax.encoders.tower import Entry, merging_entry, tower
from erel_jax.layers import (
    FLOAT32,
    Precision,
    embed_patches,
    first_token,
    layer_norm,
    layer_norm_spec,
    resize_positions,
    stack_spec,
)
from erel_jax.module import ParamSpec, normal, zeros


@dataclass(frozen=True, kw_only=True)
class VitConfig(ImageConfig):
    """The architecture of a ViT encoder; the defaults are ViT-B/16 at 224 pixels. Attributes as of `ImageConfig`."""

    @classmethod
    def base_16(cls) -> "VitConfig":
        """ViT-B/16 at 224 pixels: 85,798,656 parameters, 197 tokens."""
        return cls()


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

    return class_token_tower(
        config,
        {
            "embeddings": image_embeddings_spec(
                config.patch, config.channels, config.trained_size or config.image_size, config.width
            ),
            "layers": stack_spec(config.block, config.layers),
            "final_norm": layer_norm_spec(config.width),
        },
        lambda inputs: check_pixels(inputs, config.image_size, config.channels),
        precision,
        remat=remat,
    )


def class_token_tower(
    config: Any,
    spec: Any,
    pixels: Callable[[Mapping[str, jax.Array]], jax.Array],
    precision: Precision,
    *,
    remat: bool,
    embed: Callable[[Any, jax.Array], jax.Array] | None = None,
    protected: int = 1,
) -> Encoder:
    """An image encoder of plain blocks that is read at its class token after a final norm.

    Args:
        config: an architecture with `layers`, `width`, `patch`, `eps`, `merged_tokens` and `block`.
        spec: `embeddings` (`image_embeddings_spec`), `layers` and `final_norm`.
        pixels: checks the inputs and returns float[B, H, W, C].
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass.
        embed: `embed(parameters of embeddings, pixels)` gives state 0; None for `embed_image`.
        protected: tokens before the patches, which are never merged.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        checked = pixels(inputs)
        if embed is None:
            embedded = embed_image(params["embeddings"], checked, config.patch, precision)
        else:
            embedded = embed(params["embeddings"], checked)
        rules = {"pairs": config.merged_tokens, "protected": protected}
        return merging_entry(embedded, config.block, precision, pool=first_token, **rules)

    def normalize(params: Any, state: jax.Array) -> jax.Array:
        return layer_norm(params["final_norm"], state, config.eps)

    return tower(
        modality="image",
        config=config,
        spec=spec,
        precision=precision,
        enter=enter,
        head=normalize,
        top=normalize,
        embedding_width=config.width,
        remat=remat,
    )


def image_embeddings_spec(
    patch: int, channels: int, image_size: int, width: int, *, bias: bool = True, distilled: bool = False
) -> dict[str, Any]:
    """Class token, position table and patch projection of an image encoder.

    Args:
        patch: side of a patch in pixels.
        channels: color channels.
        image_size: image size of the position table.
        width: model width D.
        bias: whether the patch projection has one (ViT does, CLIP does not).
        distilled: whether a distillation token follows the class token (DeiT).
    """
    projection = {"kernel": ParamSpec((patch * patch * channels, width), (None, "embed"), normal(0.02))}
    if bias:
        projection["bias"] = ParamSpec((width,), ("embed",), zeros)
    tokens = ("cls", "distillation") if distilled else ("cls",)
    rows = (image_size // patch) ** 2 + len(tokens)
    return {
        **{token: {"vector": ParamSpec((width,), ("embed",), normal(0.02))} for token in tokens},
        "position": {"table": ParamSpec((rows, width), (None, "embed"))},
        "patch": projection,
    }


def embed_image(params: Any, pixels: jax.Array, patch: int, precision: Precision) -> jax.Array:
    """Class token, distillation token where there is one, and patches, with their positions.

    Args:
        params: parameters of `image_embeddings_spec`.
        pixels: float[B, H, W, C]; positions learned on another grid are interpolated to the grid of H and W.
        patch: side of a patch in pixels.
        precision: dtypes of the projection.

    Returns:
        float[B, P + 1, D], or P + 2 with a distillation token, in `precision.accumulate`.
    """
    patches = embed_patches(params["patch"], pixels, patch, precision)
    return with_first_tokens(params, patches, (pixels.shape[1] // patch, pixels.shape[2] // patch))


def with_first_tokens(
    params: Any,
    patches: jax.Array,
    grid: tuple[int, int] | None,
    resize: Callable[[jax.Array, tuple[int, int]], jax.Array] = resize_positions,
) -> jax.Array:
    """Class token, distillation token where there is one, and patches, with their positions.

    Args:
        params: `cls`, `position` and, where there is one, `distillation`.
        patches: float[B, P, D].
        grid: rows and columns of the patches, to which positions of a square grid are interpolated; None where the
            table fits as it is.
        resize: how they are interpolated.

    Returns:
        float[B, P + 1 or P + 2, D] in the dtype of the patches.
    """
    tokens = [params[name]["vector"] for name in ("cls", "distillation") if name in params]
    first = jnp.stack([token.astype(patches.dtype) for token in tokens])
    positions = params["position"]["table"].astype(patches.dtype)
    if grid is not None:
        lead = len(tokens)
        positions = jnp.concatenate([positions[:lead], resize(positions[lead:], grid)])
    broadcast = jnp.broadcast_to(first[None], (patches.shape[0], *first.shape))
    return jnp.concatenate([broadcast, patches], axis=1) + positions[None]
