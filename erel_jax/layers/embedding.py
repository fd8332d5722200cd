"""Token, position and patch embeddings."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.layers.dense import dense
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision


@kernel_class(("base", "first"))
@dataclasses.dataclass(frozen=True)
class PromptedTable:
    """A table of token embeddings whose first slots hold trained vectors, whatever ids stand there (soft prompts).

    Attributes:
        base: float[V, D], the table.
        first: float[T, D], what `embed_tokens` gives for the first T slots of a batch int32[B, T + L].
    """

    base: Any
    first: Any


def embed_tokens(table: Any, ids: jax.Array) -> jax.Array:
    """Rows of a table.

    Args:
        table: float[V, D], or a `PromptedTable` for ids int32[B, L].
        ids: int32[...]; ids outside [0, V) must be refused on the host before (a gather would clamp them silently).

    Returns:
        float[..., D].
    """
    if isinstance(table, PromptedTable):
        rows = embed_tokens(table.base, ids[:, table.first.shape[0] :])
        first = table.first.astype(rows.dtype)
        return jnp.concatenate([jnp.broadcast_to(first[None], (ids.shape[0], *first.shape)), rows], axis=1)
    return jnp.take(table, ids, axis=0, mode="clip")


def extract_patches(images: jax.Array, patch: int) -> jax.Array:
    """Non-overlapping patches in row-major order.

    Args:
        images: float[B, H, W, C]; rows and columns beyond the last whole patch are left out, as a convolution does.
        patch: side of a patch in pixels.

    Returns:
        float[B, P, patch·patch·C], each patch flattened as (row, column, channel).
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    images = images[:, : rows * patch, : columns * patch]
    grid = images.reshape(batch, rows, patch, columns, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch * patch * channels)


def extract_tubelets(videos: jax.Array, frames: int, patch: int) -> jax.Array:
    """Non-overlapping boxes of frames and pixels, ordered by time, then row-major.

    Args:
        videos: float[B, F, H, W, C]; F a multiple of `frames`, H and W multiples of `patch`.
        frames: frames of a tubelet.
        patch: side of a tubelet in pixels.

    Returns:
        float[B, P, frames·patch·patch·C], each tubelet flattened as (frame, row, column, channel).
    """
    batch, length, height, width, channels = videos.shape
    grid = videos.reshape(batch, length // frames, frames, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, -1, frames * patch * patch * channels)


def extract_windows(x: jax.Array, size: tuple[int, int], stride: tuple[int, int]) -> jax.Array:
    """Windows that may overlap, in row-major order: a convolution's inputs.

    Args:
        x: float[B, H, W, C].
        size: rows and columns of a window.
        stride: rows and columns from one window to the next.

    Returns:
        float[B, P, size[0]·size[1]·C] with P = ((H - size[0]) // stride[0] + 1) · ((W - size[1]) // stride[1] + 1),
        each window flattened as (row, column, channel).
    """

    def indices(axis: int) -> np.ndarray:
        count = (x.shape[axis + 1] - size[axis]) // stride[axis] + 1
        return np.arange(count)[:, None] * stride[axis] + np.arange(size[axis])[None]

    rows, columns = indices(0), indices(1)
    windows = x[:, rows[:, None, :, None], columns[None, :, None, :]]
    return windows.reshape(x.shape[0], len(rows) * len(columns), size[0] * size[1] * x.shape[3])


def resize_positions(table: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Positions learned on a square grid, for another grid, by bicubic interpolation.

    Args:
        table: float[P, D], row-major over a square grid.
        grid: rows and columns wanted.

    Returns:
        float[rows·columns, D], the table itself where the grid is its own.

    Numerics: float32 throughout; the cubic kernel has a = -0.75, sample points are centers of cells and borders are
    repeated, as in PyTorch's `interpolate(mode="bicubic", align_corners=False)`.
    """
    side = math.isqrt(table.shape[0])
    if grid == (side, side):
        return table
    x = table.astype(jnp.float32).reshape(side, side, -1)
    x = _resize_leading(_resize_leading(x, grid[0]).transpose(1, 0, 2), grid[1]).transpose(1, 0, 2)
    return x.reshape(grid[0] * grid[1], -1).astype(table.dtype)


def _resize_leading(x: jax.Array, size: int) -> jax.Array:
    """Four-point cubic interpolation of float[N, M, D] along its first axis to `size` points."""
    centers = (np.arange(size) + 0.5) * (x.shape[0] / size) - 0.5
    left = np.floor(centers).astype(np.int64)
    total = jnp.zeros((size, *x.shape[1:]), x.dtype)
    for offset in range(-1, 3):
        weights = _cubic(np.abs(centers - (left + offset))).astype(np.float32)
        total = total + weights[:, None, None] * x[np.clip(left + offset, 0, x.shape[0] - 1)]
    return total


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0
    far = ((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a
    return np.where(distance <= 1.0, near, np.where(distance < 2.0, far, 0.0))


def sine_positions(length: int, width: int) -> np.ndarray:
    """Fixed positions of Vaswani et al. (2017), sine and cosine in alternating channels: float32[L, D]."""
    rates = np.power(10000.0, -2.0 * (np.arange(width) // 2) / width)
    angles = np.arange(length)[:, None] * rates[None]
    return np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def embed_patches(params: dict, images: jax.Array, patch: int, precision: Precision) -> jax.Array:
    """A stride-`patch` convolution as one matrix product.

    Args:
        params: `kernel` [patch·patch·C, D] and optionally `bias` [D].
        images: float[B, H, W, C].

    Returns:
        float[B, P, D].
    """
    return dense(extract_patches(images, patch), params["kernel"], params.get("bias"), precision)
