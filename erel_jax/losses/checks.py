"""What a batch must look like before a loss may learn from it.

The static checks run inside every loss while it is traced and cost nothing afterwards. What depends on values cannot
raise inside a compiled program: there, a negative group id makes a pair a group of its own, rows without a positive or
a negative count for nothing, and NaN gives a NaN loss, which `training.train_step` skips and counts. `check_batch` says
the same as clear errors, on the host, for data that is read the first time.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, DataError, NonFiniteError

_SHOWN = 5


def check_pairs(queries: jax.typing.ArrayLike, items: jax.typing.ArrayLike) -> None:
    """Raises ConfigError unless both sides are float[B, E] with B and E above 0."""
    check_embeddings("queries", queries)
    check_embeddings("items", items)
    if jnp.shape(queries) != jnp.shape(items):
        raise ConfigError(
            f"queries have shape {jnp.shape(queries)} and items {jnp.shape(items)}, expected the same [B, E]; "
            "row i of one belongs to row i of the other."
        )


def check_embeddings(name: str, values: jax.typing.ArrayLike) -> None:
    """Raises ConfigError unless `values` is a float array with two axes, none of them empty."""
    shape, dtype = jnp.shape(values), jnp.result_type(values)
    if len(shape) != 2 or 0 in shape:
        raise ConfigError(f"{name} have shape {shape}, expected [B, E] with at least one row and one dimension.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ConfigError(f"{name} are {dtype}, expected floating point embeddings.")


def check_group(group: jax.typing.ArrayLike | None, count: int, *, required: bool = False) -> None:
    """Raises ConfigError unless `group` is None (where it may be) or int[count]."""
    if group is None:
        if required:
            raise ConfigError("group is missing; pass int32[B] with equal numbers for pairs that belong together.")
        return
    shape, dtype = jnp.shape(group), jnp.result_type(group)
    if shape != (count,) or not jnp.issubdtype(dtype, jnp.integer):
        raise ConfigError(f"group is {dtype}{list(shape)}, expected int32[{count}], one number per pair.")


def check_batch(
    embeddings: Mapping[str, jax.typing.ArrayLike] | None = None,
    *,
    group: jax.typing.ArrayLike | None = None,
    positives: jax.typing.ArrayLike | None = None,
    temperature: float | None = None,
) -> None:
    """Looks at the values of a batch on the host; not for use inside `jit`.

    Args:
        embeddings: arrays by name, float[B, ...] each.
        group: int[B], group id of each pair.
        positives: bool or float[B, ...]; what is true or above 0 is a positive of its row.
        temperature: a fixed temperature.

    Raises:
        NonFiniteError: an embedding holds NaN or infinity; names the array and its first bad rows.
        DataError: a group id is negative, or no row has a positive.
        ConfigError: the temperature is not positive, or an argument is malformed.

    It reads the arrays from the device, so call it on the first batches and after a skipped step, not on each.
    """
    for name, values in (embeddings or {}).items():
        array = np.asarray(values, np.float32)
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if bad.size:
            raise NonFiniteError(
                f"{name}: {bad.size} of {len(array)} rows hold NaN or infinity, first {bad[:_SHOWN].tolist()}; "
                "look at the inputs of these rows, or lower the learning rate."
            )
    if group is not None:
        ids = np.asarray(group)
        check_group(ids, ids.size)
        bad = np.flatnonzero(ids < 0)
        if bad.size:
            raise DataError(
                f"group: {bad.size} of {ids.size} ids are negative, first in rows {bad[:_SHOWN].tolist()}; ids count "
                "from 0. Give pairs without a group numbers of their own."
            )
    if positives is not None and not (np.asarray(positives) > 0).any():
        raise DataError("no row of the batch has a positive, so there is nothing to learn; check how it was built.")
    if temperature is not None and not (np.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature}, expected a finite number above 0, for example 0.07.")
