"""What a batch must look like before a loss may learn from it.

The static checks run inside every loss while it is traced and cost nothing afterwards. What depends on values cannot
raise inside a compiled program: there, a negative group id makes a pair a group of its own, rows without a positive or
a negative count for nothing, and NaN gives a NaN loss, which `training.train_step` skips and counts. `check_batch` says
the same as clear errors, on the host, for data that is read the first time.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from erel_jax.errors import ConfigError, DataError, NonFiniteError

_SHOWN = 5
_INT32, _FLOAT32 = np.iinfo(np.int32), np.finfo(np.float32)


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
    """Raises ConfigError unless `group` is None (where it may be) or int[count] whose ids int32 holds."""
    if group is None:
        if required:
            raise ConfigError("group is missing; pass int32[B] with equal numbers for pairs that belong together.")
        return
    ids = group if isinstance(group, jax.Array) else _on_host("group", group)
    if ids.shape != (count,) or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ConfigError(
            f"group is {ids.dtype}{list(ids.shape)}, expected int32[{count}], one number per pair; give pairs that "
            "have none -1."
        )
    if np.can_cast(ids.dtype, np.int32):
        return
    if isinstance(ids, Tracer):
        raise ConfigError(
            f"group is {ids.dtype}{list(ids.shape)} inside a compiled function, where its values cannot be looked at; "
            f"expected int32[{count}]. Number the groups within int32 and cast them."
        )
    values = np.asarray(ids)
    bad = np.flatnonzero((values < _INT32.min) | (values > _INT32.max))
    if bad.size:
        raise ConfigError(
            f"group: {bad.size} of {count} ids do not fit into int32, first {values[bad[:_SHOWN]].tolist()} in rows "
            f"{bad[:_SHOWN].tolist()}; number them anew, np.unique(ids, return_inverse=True)[1], and leave -1 where "
            "one is missing."
        )


def check_mask(mask: jax.typing.ArrayLike | None) -> None:
    """Raises ConfigError unless `mask` is None or an array of bool."""
    dtype = getattr(mask, "dtype", type(mask).__name__)
    if mask is not None and dtype != jnp.bool_:
        raise ConfigError(f"mask is {dtype}, expected bool: true where there is a candidate.")


def check_hard_negatives(hard_negatives: jax.typing.ArrayLike, batch: int, width: int) -> None:
    """Raises ConfigError unless they are float[batch, H, width] with H above 0."""
    shape, dtype = jnp.shape(hard_negatives), jnp.result_type(hard_negatives)
    if len(shape) != 3 or (shape[0], shape[2]) != (batch, width) or shape[1] == 0:
        raise ConfigError(f"hard_negatives have shape {shape}, expected [{batch}, H, {width}] with H above 0.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ConfigError(f"hard_negatives are {dtype}, expected floating point embeddings.")


def is_finite(value: Any) -> bool:
    """Whether a setting is one finite number, no text and no truth value."""
    if isinstance(value, str | bool) or np.shape(value) != ():
        return False
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def is_positive(value: Any) -> bool:
    """Whether a setting is one finite number above 0."""
    return is_finite(value) and value > 0


def check_temperature(temperature: float) -> None:
    """Raises ConfigError unless scores can be divided by the temperature in float32."""
    if not (is_positive(temperature) and temperature >= _FLOAT32.tiny):
        raise ConfigError(
            f"temperature is {temperature!r}, expected a finite number above 0 that float32 holds, for example 0.5."
        )


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
        given = _on_host(name, values)
        if given.ndim == 0 or given.size == 0 or not jnp.issubdtype(given.dtype, jnp.number):
            raise ConfigError(f"{name} is {given.dtype}{list(given.shape)}, expected float[B, ...] with B above 0.")
        array = given.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if bad.size:
            raise NonFiniteError(
                f"{name}: {bad.size} of {len(array)} rows hold NaN or infinity, first {bad[:_SHOWN].tolist()}; "
                "look at the inputs of these rows, or lower the learning rate."
            )
    if group is not None:
        ids = _on_host("group", group)
        check_group(ids, ids.size)
        bad = np.flatnonzero(ids < 0)
        if bad.size:
            raise DataError(
                f"group: {bad.size} of {ids.size} ids are negative, first in rows {bad[:_SHOWN].tolist()}; ids count "
                "from 0. Give pairs without a group numbers of their own."
            )
    if positives is not None and not (np.asarray(positives) > 0).any():
        raise DataError("no row of the batch has a positive, so there is nothing to learn; check how it was built.")
    if temperature is not None and not is_positive(temperature):
        raise ConfigError(f"temperature is {temperature!r}, expected a finite number above 0, for example 0.07.")


def _on_host(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ConfigError(f"{name} is no array ({error}); expected rows of one length.") from error
