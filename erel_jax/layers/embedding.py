"""Token, position and patch embeddings."""

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import dense
from erel_jax.layers.precision import Precision


def embed_tokens(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of a table.

    Args:
        table: float[V, D].
        ids: int32[...]; ids outside [0, V) must be refused on the host before (a gather would clamp them silently).

    Returns:
        float[..., D].
    """
    return jnp.take(table, ids, axis=0, mode="clip")


def extract_patches(images: jax.Array, patch: int) -> jax.Array:
    """Non-overlapping patches in row-major order.

    Args:
        images: float[B, H, W, C], H and W multiples of `patch`.
        patch: side of a patch in pixels.

    Returns:
        float[B, P, patch·patch·C], each patch flattened as (row, column, channel).
    """
    batch, height, width, channels = images.shape
    grid = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def embed_patches(params: dict, images: jax.Array, patch: int, precision: Precision) -> jax.Array:
    """A stride-`patch` convolution as one matrix product.

    Args:
        params: `kernel` [patch·patch·C, D] and optionally `bias` [D].
        images: float[B, H, W, C].

    Returns:
        float[B, P, D].
    """
    return dense(extract_patches(images, patch), params["kernel"], params.get("bias"), precision)
