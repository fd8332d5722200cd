"""Activation functions under the names that model configurations use. All of them run in float32."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError, suggest
from erel_jax.layers.kept import as_bits, from_bits
from erel_jax.layers.precision import FLOAT32, Precision


def quick_gelu(x: jax.Array) -> jax.Array:
    """`x · sigmoid(1.702 x)`, the activation of the first CLIP models."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """`x/2 · (1 + erf(x/√2))`, the exact GELU.

    `jax.nn.gelu` goes through erfc, which XLA expands into about 60 operations; erf is one, and twice as fast on CPU.
    In float32 both are within 2e-7·|x| of the true value.
    """
    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str, precision: Precision = FLOAT32) -> Callable[[jax.Array], jax.Array]:
    """The activation called `name`, for arrays of any shape; the result has the argument's dtype.

    What the backward pass needs is the argument alone, kept in `precision.compute`; left to itself, JAX keeps three
    float32 arrays of that shape for a GELU, which are half of what a transformer block keeps.

    Raises:
        ConfigError: the name is unknown; the message gives the nearest known one.
    """
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}. {suggest(str(name), _ACTIVATIONS)}")
    return partial(_activated, _ACTIVATIONS[name], precision)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _activated(function: Callable[[jax.Array], jax.Array], precision: Precision, x: jax.Array) -> jax.Array:
    return function(x.astype(jnp.float32)).astype(x.dtype)


def _activated_forward(function, precision, x):
    return _activated(function, precision, x), as_bits(x.astype(precision.compute))


def _activated_backward(function, precision, kept, cotangent):
    wide = from_bits(kept, precision.compute).astype(jnp.float32)
    (gradient,) = jax.vjp(function, wide)[1](cotangent.astype(jnp.float32))
    return (gradient.astype(cotangent.dtype),)


_activated.defvjp(_activated_forward, _activated_backward)
