"""AST: the audio spectrogram transformer of Gong et al. (2021), a ViT over overlapping patches of a mel spectrogram.

As in DeiT, a class and a distillation token come first; the embedding is the mean of both after the final norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.signals import check_audio
from erel_jax.encoders.stack_config import StackConfig
from erel_jax.encoders.states import block_layer
from erel_jax.encoders.token_head import with_token_head
from erel_jax.encoders.tower import Entry, tower
from erel_jax.encoders.vit import with_first_tokens
from erel_jax.errors import ConfigError
from erel_jax.layers import (
    FLOAT32,
    Precision,
    dense,
    extract_windows,
    layer_norm,
    layer_norm_spec,
    stack_spec,
)
from erel_jax.module import ParamSpec, normal, zeros


@dataclass(frozen=True, kw_only=True)
class AstConfig(StackConfig):
    """The architecture of an AST encoder; the defaults are that of AudioSet: 10 s in 1024 frames of 128 mel bins.

    Attributes as of `StackConfig`, and:
        frames: time frames T of the spectrogram.
        bins: mel bins M.
        patch: side of a patch, in frames and bins.
        bin_stride: bins from one patch to the next.
        frame_stride: frames from one patch to the next.
    """

    frames: int = 1024
    bins: int = 128
    patch: int = 16
    bin_stride: int = 10
    frame_stride: int = 10

    def __post_init__(self):
        if min(self.frames, self.bins) < self.patch or min(self.patch, self.bin_stride, self.frame_stride) < 1:
            raise ConfigError(
                f"a spectrogram of {self.frames} frames and {self.bins} bins holds no patch of side {self.patch} at "
                f"strides {self.frame_stride} and {self.bin_stride}."
            )
        StackConfig.__post_init__(self)

    @property
    def input_name(self) -> str:
        """Key of the inputs."""
        return "spectrogram"

    @property
    def patches(self) -> int:
        """Number of patches P."""
        return ((self.bins - self.patch) // self.bin_stride + 1) * ((self.frames - self.patch) // self.frame_stride + 1)

    @property
    def tokens(self) -> int:
        """Number of tokens L with class and distillation token."""
        return self.patches + 2

    @classmethod
    def base(cls) -> "AstConfig":
        """AST as trained on AudioSet: 86,187,264 parameters, 1214 tokens."""
        return cls()

    @classmethod
    def tiny(cls) -> "AstConfig":
        """A few thousand parameters and 11 tokens, for tests."""
        return cls(frames=13, bins=11, patch=5, bin_stride=3, frame_stride=4, width=16, layers=3, heads=2, mlp_width=32)


def ast(config: AstConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """An AST encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "audio" for `{"spectrogram": float32[B, T, M]}`, normalized as the feature extractor
        does. Taps are the mean of both first tokens of the residual stream; `tokens` is the final norm's output.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        spectrogram = check_audio(inputs, config.input_name, config.frames, config.bins)
        embeddings, side = params["embeddings"], config.patch
        windows = extract_windows(
            spectrogram.transpose(0, 2, 1)[..., None], (side, side), (config.bin_stride, config.frame_stride)
        )
        patches = dense(windows, embeddings["patch"]["kernel"], embeddings["patch"]["bias"], precision)
        x = with_first_tokens(embeddings, patches, None)
        return Entry(x, block_layer(config.block, precision, None), _first_two, None)

    width = config.width
    vector = {"vector": ParamSpec((width,), ("embed",), normal(0.02))}
    encoder = tower(
        modality="audio",
        config=config,
        spec={
            "embeddings": {
                "cls": vector,
                "distillation": vector,
                "position": {"table": ParamSpec((config.tokens, width), (None, "embed"))},
                "patch": {
                    "kernel": ParamSpec((config.patch * config.patch, width), (None, "embed"), normal(0.02)),
                    "bias": ParamSpec((width,), ("embed",), zeros),
                },
            },
            "layers": stack_spec(config.block, config.layers),
            "final_norm": layer_norm_spec(width),
        },
        precision=precision,
        enter=enter,
        head=lambda params, pooled: pooled,
        top=lambda params, state: layer_norm(params["final_norm"], state, config.eps),
        embedding_width=width,
        remat=remat,
    )
    return with_token_head(encoder, lambda params, tokens: _first_two(tokens))


def _first_two(state: jax.Array) -> jax.Array:
    return jnp.mean(state[:, :2].astype(jnp.float32), axis=1)
