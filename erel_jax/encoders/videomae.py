"""VideoMAE: the video encoder of Tong et al. (2022), a ViT over tubelets with fixed positions and no class token.

One vector per video is the mean over all tokens. Checkpoints differ in where the last norm stands: after every token
(pre-trained), after the mean (fine-tuned classifiers), or nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.image_config import check_patches
from erel_jax.encoders.signals import check_video
from erel_jax.encoders.stack_config import StackConfig
from erel_jax.encoders.states import block_layer
from erel_jax.encoders.token_head import with_token_head
from erel_jax.encoders.tower import Entry, tower
from erel_jax.errors import ConfigError, suggest
from erel_jax.layers import (
    FLOAT32,
    Precision,
    dense,
    extract_tubelets,
    layer_norm,
    layer_norm_spec,
    masked_mean,
    sine_positions,
    stack_spec,
)
from erel_jax.module import ParamSpec, normal, zeros

FINAL_NORMS = ("tokens", "mean", "none")
MEAN_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class VideoMaeConfig(StackConfig):
    """The architecture of a VideoMAE encoder; the defaults are ViT-B/16 on 16 frames of 224 pixels.

    Attributes as of `StackConfig`, and:
        image_size: height and width of a frame in pixels, a multiple of `patch`.
        patch: side of a tubelet in pixels.
        frames: frames of a video, a multiple of `tubelet`.
        tubelet: frames of a tubelet.
        channels: color channels.
        biases: whether queries and values have biases; keys never have.
        final_norm: "tokens", "mean" or "none": what the last norm is applied to.
    """

    image_size: int = 224
    patch: int = 16
    frames: int = 16
    tubelet: int = 2
    channels: int = 3
    biases: bool = True
    final_norm: str = "tokens"

    def __post_init__(self):
        check_patches(self.image_size, self.patch)
        if self.tubelet < 1 or self.frames < self.tubelet or self.frames % self.tubelet:
            raise ConfigError(f"frames {self.frames} is not a multiple of tubelet {self.tubelet}.")
        if self.final_norm not in FINAL_NORMS:
            raise ConfigError(f"unknown final_norm {self.final_norm!r}. {suggest(self.final_norm, FINAL_NORMS)}")
        StackConfig.__post_init__(self)

    @property
    def tokens(self) -> int:
        """Number of tubelets, which are the tokens L."""
        return self.frames // self.tubelet * (self.image_size // self.patch) ** 2

    @classmethod
    def base(cls) -> "VideoMaeConfig":
        """VideoMAE-B/16 as pre-trained: 86,227,200 parameters, 1568 tokens."""
        return cls()

    @classmethod
    def tiny(cls) -> "VideoMaeConfig":
        """A few thousand parameters and 8 tokens, for tests."""
        return cls(image_size=8, patch=4, frames=4, width=16, layers=3, heads=2, mlp_width=32)


def videomae(config: VideoMaeConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A VideoMAE encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "video" for `{"video": float32[B, F, H, W, C]}`. Taps are means over all tokens of
        the residual stream; the embedding is the mean over the final tokens, normalized where the checkpoint does.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        video = check_video(inputs, config.frames, config.image_size, config.channels)
        patch = params["embeddings"]["patch"]
        x = dense(extract_tubelets(video, config.tubelet, config.patch), patch["kernel"], patch["bias"], precision)
        positions = jnp.asarray(sine_positions(config.tokens, config.width), x.dtype)
        return Entry(x + positions[None], block_layer(config.block, precision, None), masked_mean, None)

    def top(params: Any, state: jax.Array) -> jax.Array:
        return layer_norm(params["final_norm"], state, config.eps) if "final_norm" in params else state

    def head(params: Any, tokens: jax.Array) -> jax.Array:
        mean = masked_mean(tokens)
        return layer_norm(params["mean_norm"], mean, MEAN_EPS) if "mean_norm" in params else mean

    rows = config.tubelet * config.patch * config.patch * config.channels
    bias = ("query", "value", "output") if config.biases else ("output",)
    names = {"tokens": ["final_norm"], "mean": ["mean_norm"], "none": []}[config.final_norm]
    encoder = tower(
        modality="video",
        config=config,
        spec={
            "embeddings": {
                "patch": {
                    "kernel": ParamSpec((rows, config.width), (None, "embed"), normal(0.02)),
                    "bias": ParamSpec((config.width,), ("embed",), zeros),
                }
            },
            "layers": stack_spec(config.block, config.layers, bias=bias),
            **{name: layer_norm_spec(config.width) for name in names},
        },
        precision=precision,
        enter=enter,
        head=lambda params, pooled: pooled,
        top=top,
        embedding_width=config.width,
        remat=remat,
    )
    return with_token_head(encoder, head)
