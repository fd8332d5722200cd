"""The learned temperature of contrastive losses, stored as the log of its inverse.

Losses multiply cosine similarities by `exp(log_scale)`. The logarithm keeps the factor positive whatever the optimizer
does to it; the upper bound keeps one batch from sharpening the softmax without end.
"""

import math

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import varying_like
from erel_jax.losses.checks import is_positive

LOG_SCALE_LIMIT = math.log(100.0)
"""Upper bound of the learned log scale, as in CLIP: similarities are multiplied by at most 100."""

INITIAL_LOG_SCALE = math.log(1.0 / 0.07)
"""Starting value of the learned log scale, a temperature of 0.07 as in CLIP."""


def clamped_scale(log_scale: jax.typing.ArrayLike, limit: float = LOG_SCALE_LIMIT) -> jax.Array:
    """The factor on similarities, `exp(min(log_scale, limit))`, as a float32 scalar.

    Above the limit the gradient is zero, so keep the parameter unbounded in the optimizer.

    Raises:
        ConfigError: `log_scale` is no scalar.

    Reference: CLIP (Radford et al. 2021), scale at most 100.
    """
    value = jnp.asarray(log_scale, jnp.float32)
    if value.shape != ():
        raise ConfigError(f"log_scale has shape {value.shape}, expected a scalar; one temperature serves the batch.")
    return jnp.exp(jnp.minimum(value, limit))


def sharpened(scale: jax.Array, vectors: jax.Array) -> jax.Array:
    """`scale * vectors` for a scalar scale above 0; keeps the product alone for the backward pass, not both."""
    return _sharpened(varying_like(scale, vectors), vectors)


@jax.custom_vjp
def _sharpened(scale: jax.Array, vectors: jax.Array) -> jax.Array:
    return scale * vectors


def _sharpened_forward(scale: jax.Array, vectors: jax.Array):
    result = scale * vectors
    return result, (scale, result)


def _sharpened_backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array):
    scale, result = residuals
    return jnp.sum(cotangent * result) / jnp.maximum(scale, 1e-30), scale * cotangent


_sharpened.defvjp(_sharpened_forward, _sharpened_backward)


def log_scale_of(temperature: float) -> float:
    """`log(1 / temperature)`, what losses expect of a fixed temperature.

    Raises:
        ConfigError: the temperature is not positive or not finite.

    Example:
        >>> round(log_scale_of(0.5), 4)
        0.6931
    """
    if not is_positive(temperature):
        raise ConfigError(f"temperature is {temperature!r}, expected a finite number above 0, for example 0.07.")
    return -math.log(temperature)
