"""The product with weights that are stored in fewer bits and widened where they are multiplied.

What the kernels of `layers.nf4`, `layers.grouped` and `layers.float8` share: the matrix exists only inside a product,
in the forward and again in the backward pass, and what it is stored as gets no gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.precision import Precision


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def widened_product(
    widen: Callable[..., jax.Array], precision: Precision, x: jax.Array, stored: tuple[Any, ...]
) -> jax.Array:
    """`x @ widen(*stored)`.

    Args:
        widen: gives the matrix float32[D, F]; a function of a module, so that it is one and the same in every call.
        precision: x and the matrix are cast to `compute`, the result is `accumulate`.
        x: float[..., D].
        stored: arrays, or None for what a kernel lacks.

    Returns:
        float[..., F].
    """
    flat = x.reshape(-1, x.shape[-1]).astype(precision.compute)
    weight = widen(*stored).astype(precision.compute)
    y = jnp.matmul(flat, weight, preferred_element_type=precision.accumulate)
    return y.reshape(*x.shape[:-1], weight.shape[1])


def _forward(widen, precision, x, stored):
    return widened_product(widen, precision, x, stored), (stored, jnp.zeros((0,), x.dtype))


def _backward(widen, precision, residuals, dy):
    stored, like_x = residuals
    weight = widen(*stored).astype(precision.compute)
    flat = dy.reshape(-1, dy.shape[-1]).astype(precision.compute)
    dx = jnp.matmul(flat, weight.T, preferred_element_type=precision.accumulate)
    return dx.reshape(*dy.shape[:-1], weight.shape[0]).astype(like_x.dtype), None


widened_product.defvjp(_forward, _backward)
