"""Half-precision arrays that wait for the backward pass, as bits.

XLA's CPU backend has no bfloat16 arithmetic beside matrix products, so what a scanned stack keeps for its backward loop
is converted to float32 for all layers at once, before that loop: three times the memory, and a pass over all of it.
Integers of the same size are sliced as they lie. On other backends the change of type costs nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp


def as_bits(x: Any) -> Any:
    """The bits of an array of 2-byte floats as uint16 of the same shape; any other array, and None, as it is."""
    if x is None or x.dtype.itemsize != 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jax.lax.bitcast_convert_type(x, jnp.uint16)


def from_bits(x: Any, dtype: Any) -> Any:
    """What `as_bits` was given, an array of `dtype`."""
    return x if x is None or x.dtype == dtype else jax.lax.bitcast_convert_type(x, dtype)
