"""Cosine similarity in float32, as every loss over embeddings computes it."""

import jax
import jax.numpy as jnp

EXCLUDED = -1e9
"""Logit of a candidate that is left out of a softmax; its weight is exactly zero in float32."""


def unit(x: jax.Array) -> jax.Array:
    """Rows of length one in float32.

    Args:
        x: float[..., E], of any floating dtype and magnitude.

    Returns:
        float32[..., E]. A zero row stays zero, and its gradient is finite.
    """
    wide = jnp.asarray(x).astype(jnp.float32)
    # Scaling by the largest component first keeps the sum of squares from overflowing.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide), axis=-1, keepdims=True))
    wide = wide / jnp.where(largest > 0, largest, 1.0)
    return wide * jax.lax.rsqrt(jnp.sum(wide * wide, axis=-1, keepdims=True) + 1e-12)


def products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Dot products of all rows of `a` [A, E] with all rows of `b` [B, E], accumulated to float32[A, B]."""
    return jnp.einsum("ae,be->ab", a, b, preferred_element_type=jnp.float32)
