"""SigLIP: the two towers of Zhai et al. (2023) and of SigLIP 2 (Tschannen et al., 2025) at fixed resolution.

Both are pre-norm and see everything. The image tower has no class token: one learned query reads all patches (MAP
head). The text tower was trained on texts padded to its full length and looks at the padding, too; it reads the state
at the last position. Here every text is padded to that length inside, so results do not depend on the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.image_config import ImageConfig, check_merging
from erel_jax.encoders.stack_config import StackConfig
from erel_jax.encoders.states import block_layer, check_pixels, check_text_inputs
from erel_jax.encoders.token_head import with_token_head
from erel_jax.encoders.tower import Entry, merging_entry, tower
from erel_jax.errors import ConfigError
from erel_jax.layers import (
    FLOAT32,
    Precision,
    dense,
    embed_patches,
    embed_tokens,
    layer_norm,
    layer_norm_spec,
    map_head,
    map_head_spec,
    masked_mean,
    resize_positions,
    stack_spec,
)
from erel_jax.layers.token_merging import size_bias
from erel_jax.module import ParamSpec, normal, zeros


@dataclass(frozen=True, kw_only=True)
class SiglipTextConfig(StackConfig):
    """The architecture of a SigLIP text tower; the defaults are that of SigLIP-B.

    Attributes as of `StackConfig`, and:
        vocabulary: number of token ids.
        max_positions: length to which every text is padded.
        projection: embedding width E.
        pad_id: id of padding: 1 in SigLIP, 0 in SigLIP 2. Padded places are set to it whatever the batch holds there.
    """

    vocabulary: int = 32000
    max_positions: int = 64
    activation: str = "gelu_pytorch_tanh"
    eps: float = 1e-6
    projection: int = 768
    pad_id: int = 1

    def __post_init__(self):
        if not 0 <= self.pad_id < self.vocabulary:
            raise ConfigError(f"pad_id {self.pad_id} is outside the vocabulary of {self.vocabulary} ids.")
        StackConfig.__post_init__(self)

    @classmethod
    def so400m(cls) -> "SiglipTextConfig":
        """The text tower of SigLIP-So400m/14-384: 449,734,896 parameters."""
        return cls(width=1152, layers=27, heads=16, mlp_width=4304, projection=1152)

    @classmethod
    def tiny(cls) -> "SiglipTextConfig":
        """A few thousand parameters, for tests."""
        return cls(vocabulary=64, width=16, layers=3, heads=2, mlp_width=32, max_positions=24, projection=12)


@dataclass(frozen=True, kw_only=True)
class SiglipVisionConfig(ImageConfig):
    """The architecture of a SigLIP image tower; the defaults are SigLIP-B/16 at 224 pixels.

    Attributes as of `ImageConfig`, except that pixels beyond the last whole patch are not seen.
    """

    activation: str = "gelu_pytorch_tanh"
    eps: float = 1e-6

    def __post_init__(self):
        check_merging(self.merged_tokens)
        for size in (self.image_size, self.trained_size or self.image_size):
            if not 1 <= self.patch <= size:
                raise ConfigError(f"image_size {size} holds no patch of {self.patch} pixels.")
        _ = self.block

    @property
    def tokens(self) -> int:
        """Number of tokens L."""
        return self.patches

    @classmethod
    def so400m_14_384(cls) -> "SiglipVisionConfig":
        """The image tower of SigLIP-So400m/14-384: 428,225,600 parameters, 729 tokens."""
        return cls(image_size=384, patch=14, width=1152, layers=27, heads=16, mlp_width=4304)


def siglip_text(config: SiglipTextConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """The text tower of a SigLIP model.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "text". States have `max_positions` places whatever the batch's length, and
        `Encoded.mask` says which hold real tokens. Taps are the residual stream at the last place; `tokens` is the
        output of the final norm.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        ids, mask = check_text_inputs(inputs, config.max_positions)
        beyond = ((0, 0), (0, config.max_positions - ids.shape[1]))
        mask = jnp.pad(mask, beyond)
        ids = jnp.where(mask, jnp.pad(ids, beyond), jnp.asarray(config.pad_id, ids.dtype))
        embeddings = params["embeddings"]
        x = embed_tokens(embeddings["token"]["table"], ids).astype(precision.accumulate)
        x = x + embeddings["position"]["table"].astype(precision.accumulate)[None]
        return Entry(x, block_layer(config.block, precision, None), lambda state: state[:, -1], mask)

    def top(params: Any, state: jax.Array) -> jax.Array:
        return layer_norm(params["final_norm"], state, config.eps)

    def head(params: Any, pooled: jax.Array) -> jax.Array:
        projection = params["projection"]
        return dense(top(params, pooled), projection["kernel"], projection["bias"], precision)

    width, projection = config.width, config.projection
    return tower(
        modality="text",
        config=config,
        spec={
            "embeddings": {
                "token": {"table": ParamSpec((config.vocabulary, width), ("vocab", "embed"))},
                "position": {"table": ParamSpec((config.max_positions, width), (None, "embed"))},
            },
            "layers": stack_spec(config.block, config.layers),
            "final_norm": layer_norm_spec(width),
            "projection": {
                "kernel": ParamSpec((width, projection), ("embed", None), normal(width**-0.5)),
                "bias": ParamSpec((projection,), (None,), zeros),
            },
        },
        precision=precision,
        enter=enter,
        head=head,
        top=top,
        embedding_width=projection,
        remat=remat,
    )


def siglip_vision(config: SiglipVisionConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """The image tower of a SigLIP model.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "image". Taps are means over the patches of the residual stream; `tokens` is the
        output of the final norm, and the embedding is what the MAP head reads from it.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        pixels = check_pixels(inputs, config.image_size, config.channels)
        embeddings = params["embeddings"]
        x = embed_patches(embeddings["patch"], pixels, config.patch, precision)
        side = config.image_size // config.patch
        x = x + resize_positions(embeddings["position"]["table"], (side, side)).astype(x.dtype)[None]
        return merging_entry(x, config.block, precision, pairs=config.merged_tokens, protected=0, pool=masked_mean)

    def head(params: Any, tokens: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        return map_head(
            params["head"],
            tokens,
            heads=config.heads,
            activation_name=config.activation,
            eps=config.eps,
            precision=precision,
            score_bias=None if sizes is None else size_bias(sizes),
        )

    width, rows = config.width, ((config.trained_size or config.image_size) // config.patch) ** 2
    kernel = ParamSpec((config.patch * config.patch * config.channels, width), (None, "embed"), normal(0.02))
    encoder = tower(
        modality="image",
        config=config,
        spec={
            "embeddings": {
                "patch": {"kernel": kernel, "bias": ParamSpec((width,), ("embed",), zeros)},
                "position": {"table": ParamSpec((rows, width), (None, "embed"), normal(width**-0.5))},
            },
            "layers": stack_spec(config.block, config.layers),
            "final_norm": layer_norm_spec(width),
            "head": map_head_spec(width, config.mlp_width),
        },
        precision=precision,
        enter=enter,
        head=lambda params, pooled: pooled,
        top=lambda params, state: layer_norm(params["final_norm"], state, config.eps),
        embedding_width=width,
        remat=remat,
    )
    return with_token_head(encoder, head)
