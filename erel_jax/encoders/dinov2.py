"""DINOv2: the self-supervised image encoder of Oquab et al. (2023), and with registers (Darcet et al., 2023).

A ViT whose sub-layers are scaled per channel before they join the residual stream; the largest has gated feed-forward
layers. It takes images of any size in whole patches: positions are interpolated to the grid at hand, as the original
always does. Registers are learned tokens without positions between the class token and the patches; models that have
them smooth the positions of a smaller grid. The embedding is the class token after the final norm.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.image_config import check_merging, check_patches
from erel_jax.encoders.signals import check_image_grid
from erel_jax.encoders.vit import class_token_tower, image_embeddings_spec, with_first_tokens
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, Precision, embed_patches, layer_norm_spec, stack_spec
from erel_jax.module import ParamSpec


@dataclass(frozen=True, kw_only=True)
class Dinov2Config:
    """The architecture of a DINOv2 encoder; the defaults are ViT-B/14 with positions for 518 pixels.

    Attributes:
        image_size: image size of the position table in pixels, a multiple of `patch`; inputs may have another size.
        patch: side of a patch in pixels.
        channels: color channels.
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_ratio: feed-forward width over D, before a gate takes a third of it.
        activation: name of the feed-forward activation where there is no gate; the gate's is "silu".
        eps: epsilon of the layer norms.
        gated: whether the feed-forward layers have a gate (SwiGLU).
        registers: number of register tokens.
        merged_tokens: pairs of patches that each layer merges into one (ToMe); 0 for none.
    """

    image_size: int = 518
    patch: int = 14
    channels: int = 3
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    activation: str = "gelu"
    eps: float = 1e-6
    gated: bool = False
    registers: int = 0
    merged_tokens: int = 0

    def __post_init__(self):
        check_patches(self.image_size, self.patch)
        if self.registers < 0:
            raise ConfigError(f"got {self.registers} registers, expected 0 or more.")
        check_merging(self.merged_tokens)
        _ = self.block

    @property
    def patches(self) -> int:
        """Number of patches P of an image of `image_size`."""
        return (self.image_size // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Number of tokens L of an image of `image_size`, with class token and registers."""
        return self.patches + 1 + self.registers

    @property
    def mlp_width(self) -> int:
        """Feed-forward width F; with a gate two thirds of it, rounded up to a multiple of 8."""
        plain = self.mlp_ratio * self.width
        return (plain * 2 // 3 + 7) // 8 * 8 if self.gated else plain

    @property
    def block(self) -> BlockConfig:
        """One layer of the stack."""
        return BlockConfig(
            width=self.width,
            heads=self.heads,
            mlp_width=self.mlp_width,
            activation="silu" if self.gated else self.activation,
            norm="pre",
            eps=self.eps,
            gated=self.gated,
        )

    @classmethod
    def base_14(cls) -> "Dinov2Config":
        """DINOv2 ViT-B/14: 86,579,712 parameters."""
        return cls()

    @classmethod
    def tiny(cls) -> "Dinov2Config":
        """A few thousand parameters and 10 tokens, for tests."""
        return cls(image_size=12, patch=4, width=16, layers=3, heads=2, mlp_ratio=2)

    @classmethod
    def giant_14(cls) -> "Dinov2Config":
        """DINOv2 ViT-g/14: 1,136,479,232 parameters."""
        return cls(width=1536, layers=40, heads=24, gated=True)


@dataclass(frozen=True, kw_only=True)
class Dinov2RegistersConfig(Dinov2Config):
    """The architecture of a DINOv2 encoder with registers, see `Dinov2Config`; the defaults are ViT-B/14."""

    registers: int = 4

    @classmethod
    def base_14(cls) -> "Dinov2RegistersConfig":
        """DINOv2 ViT-B/14 with four registers: 86,582,784 parameters."""
        return cls()

    @classmethod
    def giant_14(cls) -> "Dinov2RegistersConfig":
        """DINOv2 ViT-g/14 with four registers: 1,136,485,376 parameters."""
        return cls(width=1536, layers=40, heads=24, gated=True)

    @classmethod
    def tiny(cls) -> "Dinov2RegistersConfig":
        """A few thousand parameters, 12 tokens and a gate, for tests."""
        return cls(image_size=12, patch=4, width=16, layers=3, heads=2, mlp_ratio=2, registers=2, gated=True)


def dinov2(config: Dinov2Config, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A DINOv2 encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "image" for pixels float32[B, H, W, C] with H and W multiples of the patch. Taps are
        the class token of the residual stream, not normalized; `tokens` is the output of the final norm.
    """
    embeddings = image_embeddings_spec(config.patch, config.channels, config.image_size, config.width)
    if config.registers:
        embeddings["registers"] = {"table": ParamSpec((config.registers, config.width), (None, "embed"))}

    def embed(params: Any, pixels: jax.Array) -> jax.Array:
        patches = embed_patches(params["patch"], pixels, config.patch, precision)
        grid = pixels.shape[1] // config.patch, pixels.shape[2] // config.patch
        x = with_first_tokens(params, patches, grid, smooth_positions)
        registers = params["registers"]["table"].astype(x.dtype)[None]
        registers = jnp.broadcast_to(registers, (x.shape[0], *registers.shape[1:]))
        return jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)

    return class_token_tower(
        config,
        {
            "embeddings": embeddings,
            "layers": stack_spec(config.block, config.layers, branch_scale=1.0),
            "final_norm": layer_norm_spec(config.width),
        },
        lambda inputs: check_image_grid(inputs, config.patch, config.channels),
        precision,
        remat=remat,
        embed=embed if config.registers else None,
        protected=1 + config.registers,
    )


def smooth_positions(table: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Positions learned on a square grid, for another grid, without aliasing where that is smaller.

    Args:
        table: float[P, D], row-major over a square grid.
        grid: rows and columns wanted.

    Returns:
        float[rows·columns, D], the table itself where the grid is its own.

    Numerics: float32; the cubic kernel has a = -0.5 and grows with the step between sample points, as in PyTorch's
    `interpolate(mode="bicubic", antialias=True)`.
    """
    side = math.isqrt(table.shape[0])
    if grid == (side, side):
        return table
    square = table.astype(jnp.float32).reshape(side, side, -1)
    resized = jax.image.resize(square, (*grid, square.shape[-1]), "cubic", antialias=True)
    return resized.reshape(grid[0] * grid[1], -1).astype(table.dtype)
