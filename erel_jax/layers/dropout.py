"""Dropout with an explicit key."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, key: jax.Array | None, train: bool) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the rest by `1/(1-rate)`.

    The identity when `train` is False, when `key` is None or when the rate is 0.
    """
    if not train or key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
