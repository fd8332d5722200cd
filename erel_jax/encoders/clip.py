"""CLIP: the two towers of Radford et al. (2021), each an encoder of its own.

Both are pre-norm. The text tower is causal and reads the state at the end-of-text token; the image tower normalizes
its patch embedding before the first layer and reads the class token. A projection without bias maps either into the
shared space; a tower saved without its projection has `projection=None` and returns the pooled state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.image_config import ImageConfig
from erel_jax.encoders.stack_config import StackConfig
from erel_jax.encoders.states import block_layer, check_pixels, check_text_inputs
from erel_jax.encoders.tower import Entry, merging_entry, tower
from erel_jax.encoders.vit import embed_image, image_embeddings_spec
from erel_jax.errors import ConfigError
from erel_jax.layers import (
    FLOAT32,
    Precision,
    dense,
    embed_tokens,
    first_token,
    layer_norm,
    layer_norm_spec,
    stack_spec,
    token_at,
)
from erel_jax.module import ParamSpec, normal

LEGACY_EOS = 2


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(StackConfig):
    """The architecture of a CLIP text tower; the defaults are that of ViT-B/32.

    Attributes as of `StackConfig`, and:
        vocabulary: number of token ids.
        max_positions: longest text in tokens.
        projection: embedding width E, or None for no projection.
        eos_id: id of the end-of-text token. The first CLIP configurations say 2, which is not that token's id; there
            the position of the largest id is read instead.
    """

    vocabulary: int = 49408
    width: int = 512
    heads: int = 8
    mlp_width: int = 2048
    max_positions: int = 77
    activation: str = "quick_gelu"
    eps: float = 1e-5
    projection: int | None = 512
    eos_id: int = 49407

    def __post_init__(self):
        if not 0 <= self.eos_id < self.vocabulary:
            raise ConfigError(f"eos_id {self.eos_id} is outside the vocabulary of {self.vocabulary} ids.")
        StackConfig.__post_init__(self)

    @classmethod
    def base_32(cls) -> "ClipTextConfig":
        """The text tower of CLIP ViT-B/32: 63,428,096 parameters."""
        return cls()

    @classmethod
    def large_14(cls) -> "ClipTextConfig":
        """The text tower of CLIP ViT-L/14: 123,650,304 parameters."""
        return cls(width=768, heads=12, mlp_width=3072, projection=768)

    @classmethod
    def tiny(cls) -> "ClipTextConfig":
        """A few thousand parameters, for tests."""
        return cls(vocabulary=64, width=16, layers=3, heads=2, mlp_width=32, max_positions=24, projection=12, eos_id=63)


@dataclass(frozen=True, kw_only=True)
class ClipVisionConfig(ImageConfig):
    """The architecture of a CLIP image tower; the defaults are ViT-B/32 at 224 pixels.

    Attributes as of `ImageConfig`, and:
        projection: embedding width E, or None for no projection.
    """

    patch: int = 32
    activation: str = "quick_gelu"
    eps: float = 1e-5
    projection: int | None = 512

    @classmethod
    def base_32(cls) -> "ClipVisionConfig":
        """The image tower of CLIP ViT-B/32: 87,849,216 parameters."""
        return cls()

    @classmethod
    def large_14(cls) -> "ClipVisionConfig":
        """The image tower of CLIP ViT-L/14 at 224 pixels: 303,966,208 parameters."""
        return cls(patch=14, width=1024, layers=24, heads=16, mlp_width=4096, projection=768)

    @classmethod
    def tiny(cls) -> Self:
        """A few thousand parameters and 10 tokens, for tests."""
        return cls(image_size=12, patch=4, width=16, layers=3, heads=2, mlp_width=32, projection=12)


def clip_text(config: ClipTextConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """The text tower of a CLIP model.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "text". Taps are the residual stream at the end-of-text token; `tokens` is the output
        of the final norm. A row without an end-of-text token is read at its last real token.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        ids, mask = check_text_inputs(inputs, config.max_positions)
        ends = end_positions(ids, mask, config.eos_id)
        embeddings = params["embeddings"]
        positions = embeddings["position"]["table"][: ids.shape[1]].astype(precision.accumulate)
        x = embed_tokens(embeddings["token"]["table"], ids).astype(precision.accumulate) + positions[None]
        visible = mask[:, None, None, :] & jnp.tri(ids.shape[1], dtype=bool)[None, None]
        return Entry(x, block_layer(config.block, precision, visible), lambda state: token_at(state, ends), mask)

    def top(params: Any, state: jax.Array) -> jax.Array:
        return layer_norm(params["final_norm"], state, config.eps)

    spec = {
        "embeddings": {
            "token": {"table": ParamSpec((config.vocabulary, config.width), ("vocab", "embed"))},
            "position": {"table": ParamSpec((config.max_positions, config.width), (None, "embed"), normal(0.01))},
        },
        "layers": stack_spec(config.block, config.layers),
        "final_norm": layer_norm_spec(config.width),
        **_projection_spec(config),
    }
    return tower(
        modality="text",
        config=config,
        spec=spec,
        precision=precision,
        enter=enter,
        head=lambda params, pooled: _project(params, top(params, pooled), precision),
        top=top,
        embedding_width=config.projection or config.width,
        remat=remat,
    )


def clip_vision(config: ClipVisionConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """The image tower of a CLIP model.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "image". State 0 is the patch embedding after its norm; taps are the class token of
        the residual stream; `tokens` is the residual stream after the last layer, which CLIP does not normalize.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        pixels = check_pixels(inputs, config.image_size, config.channels)
        embedded = embed_image(params["embeddings"], pixels, config.patch, precision)
        x = layer_norm(params["embeddings"]["norm"], embedded, config.eps)
        rules = {"pairs": config.merged_tokens, "protected": 1}
        return merging_entry(x, config.block, precision, pool=first_token, **rules)

    def head(params: Any, pooled: jax.Array) -> jax.Array:
        return _project(params, layer_norm(params["final_norm"], pooled, config.eps), precision)

    trained = config.trained_size or config.image_size
    embeddings = image_embeddings_spec(config.patch, config.channels, trained, config.width, bias=False)
    return tower(
        modality="image",
        config=config,
        spec={
            "embeddings": {**embeddings, "norm": layer_norm_spec(config.width)},
            "layers": stack_spec(config.block, config.layers),
            "final_norm": layer_norm_spec(config.width),
            **_projection_spec(config),
        },
        precision=precision,
        enter=enter,
        head=head,
        top=lambda params, state: state,
        embedding_width=config.projection or config.width,
        remat=remat,
    )


def end_positions(ids: jax.Array, mask: jax.Array, eos_id: int) -> jax.Array:
    """Where each text ends.

    Args:
        ids: int32[B, L].
        mask: bool[B, L] of real tokens.
        eos_id: the end-of-text id, or 2 for configurations whose texts end in the largest id.

    Returns:
        int32[B]: the first end-of-text token among the real ones, else the last real token.
    """
    real = jnp.where(mask, ids, -1)
    if eos_id == LEGACY_EOS:
        return jnp.argmax(real, axis=1).astype(jnp.int32)
    found = real == eos_id
    last = jnp.maximum(jnp.sum(mask, axis=1, dtype=jnp.int32) - 1, 0)
    return jnp.where(jnp.any(found, axis=1), jnp.argmax(found, axis=1).astype(jnp.int32), last)


def _projection_spec(config: ClipTextConfig | ClipVisionConfig) -> dict[str, Any]:
    if config.projection is None:
        return {}
    kernel = ParamSpec((config.width, config.projection), ("embed", None), normal(config.width**-0.5))
    return {"projection": {"kernel": kernel}}


def _project(params: Any, pooled: jax.Array, precision: Precision) -> jax.Array:
    if "projection" not in params:
        return pooled
    return dense(pooled, params["projection"]["kernel"], None, precision)
