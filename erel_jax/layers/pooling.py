"""From token states to one vector per item."""

import jax
import jax.numpy as jnp


def first_token(states: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The state of token 0 ([CLS]): float[B, L, D] → float[B, D]."""
    return states[:, 0]


def masked_mean(states: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean over real tokens.

    Args:
        states: float[B, L, D].
        mask: bool or int[B, L], nonzero on real tokens, or float[B, L] weights of at least 1 (sizes of merged tokens);
            None averages all.

    Returns:
        float32[B, D]; a row without real tokens gives 0.
    """
    wide = states.astype(jnp.float32)
    if mask is None:
        return jnp.mean(wide, axis=1)
    weights = mask.astype(jnp.float32)
    total = jnp.einsum("bld,bl->bd", wide, weights)
    return total / jnp.maximum(jnp.sum(weights, axis=1), 1.0)[:, None]


def last_positions(mask: jax.Array) -> jax.Array:
    """Where the last real token of each row is, whichever side is padded.

    Args:
        mask: bool[B, L] of real tokens.

    Returns:
        int32[B]; 0 for a row without real tokens.
    """
    places = jnp.arange(mask.shape[1], dtype=jnp.int32)
    return jnp.max(jnp.where(mask, places[None], 0), axis=1)


def token_at(states: jax.Array, positions: jax.Array) -> jax.Array:
    """The state at one position per row: float[B, L, D], int32[B] → float[B, D]."""
    return jnp.take_along_axis(states, positions[:, None, None], axis=1)[:, 0]
