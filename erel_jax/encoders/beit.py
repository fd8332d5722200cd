"""BEiT: the masked-image encoder of Bao et al. (2021), a ViT with relative positions in place of a position table.

Every pair of tokens has a learned score per head that depends on their distance on the patch grid, in each layer or
shared by all; sub-layers are scaled per channel, and keys have no bias. Pre-trained models are read at the class token
after a final norm, fine-tuned ones at the normalized mean over the patches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.image_config import ImageConfig
from erel_jax.encoders.states import check_pixels
from erel_jax.encoders.token_head import with_token_head
from erel_jax.encoders.tower import Entry, tower
from erel_jax.errors import ConfigError, suggest
from erel_jax.layers import (
    FLOAT32,
    Precision,
    block,
    block_spec,
    embed_patches,
    first_token,
    layer_norm,
    layer_norm_spec,
)
from erel_jax.module import ParamSpec, normal, stack, zeros

RELATIVE = ("layers", "shared")
POOLED = ("mean", "cls")
# Distances from the class token, to it, and from it to itself.
CLASS_DISTANCES = 3


@dataclass(frozen=True, kw_only=True)
class BeitConfig(ImageConfig):
    """The architecture of a BEiT encoder; the defaults are BEiT-B/16 at 224 pixels as fine-tuned.

    Attributes as of `ImageConfig`, where `trained_size` is that of the tables of relative positions, and:
        relative: "layers" for a table of relative positions in each layer, "shared" for one table.
        read: "mean" for the norm of the patches' mean, "cls" for the class token after a norm of all tokens.
    """

    relative: str = "layers"
    read: str = "mean"

    def __post_init__(self):
        if self.merged_tokens:
            raise ConfigError("BEiT adds biases by relative position, which merged tokens lack: set merged_tokens=0.")
        ImageConfig.__post_init__(self)
        for name, value, known in (("relative", self.relative, RELATIVE), ("read", self.read, POOLED)):
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r} of a BEiT encoder. {suggest(value, known)}")

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch

    @property
    def trained_grid(self) -> int:
        """Patches per side for which the tables of relative positions were trained."""
        return (self.trained_size or self.image_size) // self.patch

    @classmethod
    def base_16(cls) -> "BeitConfig":
        """BEiT-B/16 as fine-tuned: 85,761,984 parameters, the norm of the mean included."""
        return cls()


def beit(config: BeitConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A BEiT encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "image". Taps are the class token of the residual stream, not normalized; `tokens` is
        the last state, after the final norm where the class token is read.
    """
    distances = relative_distances(config.grid)

    def score_bias(relative: Any) -> jax.Array:
        table = resize_relative(relative["table"].astype(precision.accumulate), config.trained_grid, config.grid)
        scores = jnp.take(table, distances.reshape(-1), axis=0)
        return scores.reshape(*distances.shape, config.heads).transpose(2, 0, 1)[None]

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        pixels = check_pixels(inputs, config.image_size, config.channels)
        patches = embed_patches(params["embeddings"]["patch"], pixels, config.patch, precision)
        first = params["embeddings"]["cls"]["vector"].astype(patches.dtype)
        first = jnp.broadcast_to(first, (patches.shape[0], 1, config.width))
        shared = score_bias(params["relative"]) if "relative" in params else None

        def layer(layer_params: Any, state: jax.Array) -> jax.Array:
            bias = score_bias(layer_params["relative"]) if shared is None else shared
            beyond = (0, state.shape[1] - bias.shape[-1])  # soft prompts stand at no place: no bias
            return block(config.block, precision, layer_params, state, None, jnp.pad(bias, [(0, 0)] * 2 + [beyond] * 2))

        return Entry(jnp.concatenate([first, patches], axis=1), layer, first_token, None)

    def top(params: Any, state: jax.Array) -> jax.Array:
        return layer_norm(params["final_norm"], state, config.eps) if config.read == "cls" else state

    def head(params: Any, tokens: jax.Array) -> jax.Array:
        if config.read == "cls":
            return first_token(tokens)
        return layer_norm(params["final_norm"], jnp.mean(tokens[:, 1:], axis=1), config.eps)

    encoder = tower(
        modality="image",
        config=config,
        spec=_spec(config),
        precision=precision,
        enter=enter,
        head=lambda params, pooled: pooled,
        top=top,
        embedding_width=config.width,
        remat=remat,
    )
    return with_token_head(encoder, head)


def _spec(config: BeitConfig) -> dict[str, Any]:
    width = config.width
    rows = (2 * config.trained_grid - 1) ** 2 + CLASS_DISTANCES
    relative = {"relative": {"table": ParamSpec((rows, config.heads), (None, None), zeros)}}
    layer = block_spec(config.block, bias=("query", "value", "output"), branch_scale=0.1)
    spec = {
        "embeddings": {
            "cls": {"vector": ParamSpec((width,), ("embed",), normal(0.02))},
            "patch": {
                "kernel": ParamSpec((config.patch * config.patch * config.channels, width), (None, "embed")),
                "bias": ParamSpec((width,), ("embed",), zeros),
            },
        },
        "layers": stack(layer | relative if config.relative == "layers" else layer, config.layers),
        "final_norm": layer_norm_spec(width),
    }
    return spec | relative if config.relative == "shared" else spec


def resize_relative(table: jax.Array, grid: int, other: int) -> jax.Array:
    """A table of relative positions for another number of patches per side.

    Args:
        table: float[(2 grid - 1)² + 3, H]; the last three rows are those of the class token.
        grid: patches per side that it was learned for.
        other: patches per side wanted.

    Returns:
        float[(2 other - 1)² + 3, H]: scores by distance on the grid are interpolated linearly between the same largest
        distances, those of the class token are kept.

    Numerics: sample points are centers of cells and borders are repeated, as the original interpolates.
    """
    if grid == other:
        return table
    side, wanted, heads = 2 * grid - 1, 2 * other - 1, table.shape[1]
    square = table[: side * side].reshape(side, side, heads)
    resized = jax.image.resize(square, (wanted, wanted, heads), "linear", antialias=False)
    return jnp.concatenate([resized.reshape(wanted * wanted, heads), table[side * side :]])


def relative_distances(grid: int) -> np.ndarray:
    """Which row of a table of relative positions each pair of tokens reads.

    Args:
        grid: patches per side.

    Returns:
        int32[L, L] with L = grid² + 1. Patches r rows and c columns apart read row (r + grid - 1) · (2 grid - 1) + c +
        grid - 1; the last three rows are from the class token, to it, and for itself.
    """
    side = 2 * grid - 1
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    apart = (rows[:, None] - rows[None] + grid - 1) * side + columns[:, None] - columns[None] + grid - 1
    found = np.empty((grid * grid + 1,) * 2, np.int32)
    found[1:, 1:] = apart
    found[0, :], found[:, 0], found[0, 0] = side * side, side * side + 1, side * side + 2
    return found
