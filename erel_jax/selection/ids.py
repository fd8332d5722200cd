"""Whole numbers that say which rows belong together, or which rows are meant.

Ids come from files and from other libraries, where a missing one may be None, NaN or -1. Here a negative id is a
missing one, and everything that is no whole number is refused instead of being cut to one.
"""

from typing import Any

import numpy as np

from erel_jax.errors import ConfigError

_SHOWN = 5


def whole_numbers(name: str, values: Any) -> np.ndarray:
    """The values as int64, of any shape.

    Raises:
        ConfigError: they are no whole numbers, for example because some are None or NaN, or beyond int64.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or (array.dtype.kind == "u" and array.max(initial=0) > np.iinfo(np.int64).max):
        flat = array.ravel()
        odd = [row for row, value in enumerate(flat.tolist()) if not isinstance(value, int) or isinstance(value, bool)]
        where = f", first odd ones at {odd[:_SHOWN]}" if odd else ""
        raise ConfigError(
            f"{name} are {array.dtype}{list(array.shape)}{where}; expected whole numbers. Give rows that have none -1."
        )
    return array.astype(np.int64)


def row_groups(name: str, values: Any) -> np.ndarray:
    """Group ids int32[N] that count from 0, equal where the values are; each negative value is a group of its own.

    Raises:
        ConfigError: the values are not [N] or no whole numbers.
    """
    ids = whole_numbers(name, values)
    if ids.ndim != 1:
        raise ConfigError(f"{name} have shape {list(ids.shape)}, expected [N], one id per row.")
    missing = ids < 0
    known, dense = np.unique(ids[~missing], return_inverse=True)
    groups = np.empty(len(ids), np.int32)
    groups[~missing] = dense
    groups[missing] = len(known) + np.arange(int(missing.sum()), dtype=np.int32)
    return groups
