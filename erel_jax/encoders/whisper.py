"""The encoder of Whisper (Radford et al., 2022): two convolutions over mel frames, then a pre-norm stack.

The second convolution halves the number of frames; fixed positions of the checkpoint are added. Keys have no bias. The
speech decoder is not part of it. One vector per recording is the mean over all final states, silence included, as the
model has no mask. As in the other pre-norm towers the last of `hidden_states` stands before the final norm;
transformers lists it after that norm, which here are the `tokens`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.signals import check_audio
from erel_jax.encoders.stack_config import StackConfig
from erel_jax.encoders.states import block_layer
from erel_jax.encoders.token_head import with_token_head
from erel_jax.encoders.tower import Entry, tower
from erel_jax.errors import ConfigError
from erel_jax.layers import (
    FLOAT32,
    Precision,
    activation,
    dense,
    extract_windows,
    layer_norm,
    layer_norm_spec,
    masked_mean,
    stack_spec,
)
from erel_jax.module import ParamSpec, normal, zeros

TAPS = 3


@dataclass(frozen=True, kw_only=True)
class WhisperConfig(StackConfig):
    """The architecture of a Whisper encoder; the defaults are Whisper tiny on 30 s.

    Attributes as of `StackConfig`, and:
        positions: states L of the stack; recordings have 2 L mel frames.
        bins: mel bins M.
    """

    positions: int = 1500
    bins: int = 80
    width: int = 384
    layers: int = 4
    heads: int = 6
    mlp_width: int = 1536
    eps: float = 1e-5

    def __post_init__(self):
        if self.positions < 1 or self.bins < 1:
            raise ConfigError(f"got {self.positions} positions and {self.bins} mel bins, expected at least one each.")
        if self.width % 2:
            raise ConfigError(f"width {self.width} is odd, expected as many sines as cosines.")
        StackConfig.__post_init__(self)

    @property
    def input_name(self) -> str:
        """Key of the inputs."""
        return "features"

    @property
    def frames(self) -> int:
        """Mel frames T of a recording."""
        return 2 * self.positions

    @property
    def tokens(self) -> int:
        """Number of states L."""
        return self.positions

    @classmethod
    def base(cls) -> "WhisperConfig":
        """The encoder of Whisper base: 20,590,592 parameters."""
        return cls(width=512, layers=6, heads=8, mlp_width=2048)

    @classmethod
    def large_v3(cls) -> "WhisperConfig":
        """The encoder of Whisper large-v3: 636,968,960 parameters."""
        return cls(bins=128, width=1280, layers=32, heads=20, mlp_width=5120)

    @classmethod
    def tiny(cls) -> "WhisperConfig":
        """A few thousand parameters and 9 states, for tests."""
        return cls(positions=9, bins=6, width=16, layers=3, heads=2, mlp_width=32)


def whisper(config: WhisperConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """The encoder of a Whisper model.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "audio" for `{"features": float32[B, T, M]}`, log-mel frames as the feature extractor
        makes them (time before bins). Taps are means of the residual stream; `tokens` is the final norm's output and
        the embedding their mean.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        x = check_audio(inputs, config.input_name, config.frames, config.bins)
        gelu = activation("gelu")
        for name, stride in (("first", 1), ("second", 2)):
            layer = params["embeddings"][name]
            padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))[:, :, None]
            windows = extract_windows(padded, (TAPS, 1), (stride, 1))
            x = gelu(dense(windows, layer["kernel"], layer["bias"], precision))
        x = x + params["embeddings"]["position"]["table"].astype(x.dtype)[None]
        return Entry(x, block_layer(config.block, precision, None), masked_mean, None)

    width = config.width

    def convolution(channels: int) -> dict[str, ParamSpec]:
        kernel = ParamSpec((TAPS * channels, width), (None, "embed"), normal(0.02))
        return {"kernel": kernel, "bias": ParamSpec((width,), ("embed",), zeros)}

    encoder = tower(
        modality="audio",
        config=config,
        spec={
            "embeddings": {
                "first": convolution(config.bins),
                "second": convolution(width),
                "position": {"table": ParamSpec((config.positions, width), (None, "embed"), _sinusoids)},
            },
            "layers": stack_spec(config.block, config.layers, bias=("query", "value", "output")),
            "final_norm": layer_norm_spec(width),
        },
        precision=precision,
        enter=enter,
        head=lambda params, pooled: pooled,
        top=lambda params, state: layer_norm(params["final_norm"], state, config.eps),
        embedding_width=width,
        remat=remat,
    )
    return with_token_head(encoder, lambda params, tokens: masked_mean(tokens))


def _sinusoids(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Whisper's positions: all sines, then all cosines, at geometric rates from 1 to 1/10000."""
    length, width = shape
    rates = np.exp(-np.log(10000.0) / max(width // 2 - 1, 1) * np.arange(width // 2))
    angles = np.arange(length)[:, None] * rates[None]
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), dtype)
