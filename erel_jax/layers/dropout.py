"""Dropout with an explicit key."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, key: jax.Array | None, train: bool) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the rest by `1/(1-rate)`; rates are rounded to 2⁻¹⁶.

    The identity when `train` is False, when `key` is None or when the rate is 0.
    """
    if not train or key is None or rate == 0.0:
        return x
    # Sixteen random bits decide as well as the thirty-two behind a uniform number, at half the cost of drawing them.
    threshold = round((1.0 - rate) * 2**16)
    keep = jax.random.bits(key, x.shape, jnp.uint16) < jnp.uint16(min(threshold, 2**16 - 1))
    return jnp.where(keep, x * (2**16 / threshold), jnp.zeros_like(x))
