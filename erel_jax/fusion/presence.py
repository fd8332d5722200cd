"""Which modalities an example has, and how what is absent is kept out.

Every fusion takes a presence mask `present: bool[B, M]` beside its inputs. What stands in the place of an absent
modality (zeros, the states of an empty text, NaN) is replaced before anything is computed from it, so neither a value
nor a gradient depends on it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError


def check_present(present: jax.Array, batch: int, modalities: int) -> None:
    """Refuses a presence mask that does not belong to the inputs.

    Args:
        present: the mask to check.
        batch: B of the inputs.
        modalities: number of inputs M.

    Raises:
        ConfigError: it is not bool[B, M].
    """
    if jnp.shape(present) != (batch, modalities) or jnp.result_type(present) != jnp.bool_:
        raise ConfigError(
            f"present is {jnp.result_type(present)}{list(jnp.shape(present))}, expected bool[{batch}, {modalities}]: "
            "one column per modality, in the order of the inputs."
        )


def check_inputs(inputs: Sequence[jax.Array], axes: str) -> int:
    """Refuses inputs of different batch sizes or ranks.

    Args:
        inputs: one float array per modality.
        axes: legend letters of one input, for example "BLD".

    Returns:
        B.

    Raises:
        ConfigError: no input, another number of axes, another batch size, or no floats.
    """
    shapes = [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in inputs]
    fitting = [jnp.ndim(x) == len(axes) and jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in inputs]
    if not shapes or not all(fitting) or len({jnp.shape(x)[0] for x in inputs}) != 1:
        raise ConfigError(f"got inputs {shapes}, expected one float[{', '.join(axes)}] per modality with equal B.")
    return jnp.shape(inputs[0])[0]


def kept(x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` where the mask is true and 0 elsewhere; nothing from elsewhere reaches value or gradient.

    Args:
        x: float[..., D].
        mask: bool[...], the leading axes of x.
    """
    return jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
