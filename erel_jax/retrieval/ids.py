"""Ids of rows: 64-bit numbers or strings, each once. They stay on the host and never pass through 32 bits."""

from collections.abc import Sequence

import numpy as np

from erel_jax.errors import ConfigError, DataError

MISSING_NUMBER, MISSING_TEXT = -1, ""


def as_ids(ids: Sequence[int] | Sequence[str] | np.ndarray) -> np.ndarray:
    """Ids as int64[N] or text[N].

    Raises:
        ConfigError: they are neither whole numbers from 0 nor non-empty texts, or beyond 64 bits.
        DataError: an id occurs twice; names it.
    """
    found = np.asarray(ids)
    if found.ndim != 1 or found.dtype.kind not in "iuU":
        raise ConfigError(f"ids are {found.dtype}{list(found.shape)}, expected [N] of whole numbers or of texts.")
    if found.dtype.kind == "U":
        empty = np.flatnonzero(found == MISSING_TEXT)
    else:
        if found.dtype.kind == "u" and found.size and found.max() > np.iinfo(np.int64).max:
            raise ConfigError(f"id {found.max()} does not fit in 63 bits; use texts for such ids.")
        found = found.astype(np.int64)
        empty = np.flatnonzero(found < 0)
    if len(empty):
        raise ConfigError(f"id {found[empty[0]].item()!r} of row {empty[0]} is kept for `nothing found`; use another.")
    unique, counts = np.unique(found, return_counts=True)
    if len(unique) < len(found):
        raise DataError(f"id {unique[counts > 1][0].item()!r} occurs {counts.max()} times, expected each id once.")
    return found


def ids_of(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Ids of rows of any shape; -1 or "" where the row is -1."""
    missing = MISSING_TEXT if ids.dtype.kind == "U" else MISSING_NUMBER
    if not len(ids):
        return np.full(rows.shape, missing, ids.dtype)
    return np.where(rows >= 0, ids[np.maximum(rows, 0)], missing)


def rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64[len(wanted)], row of each id.

    Raises:
        DataError: an id is unknown, or of the other kind; names it.
    """
    if (ids.dtype.kind == "U") != (wanted.dtype.kind == "U"):
        raise DataError(f"ids are {ids.dtype}, but {wanted.dtype} was asked for; numbers and texts are different ids.")
    order = np.argsort(ids, kind="stable")
    places = np.searchsorted(ids, wanted, sorter=order)
    rows = order[np.minimum(places, len(ids) - 1)] if len(ids) else np.zeros(len(wanted), np.int64)
    unknown = np.flatnonzero(ids[rows] != wanted) if len(ids) else np.arange(len(wanted))
    if len(unknown):
        raise DataError(
            f"id {wanted[unknown[0]].item()!r} is not in the index ({len(unknown)} of {len(wanted)} are not)."
        )
    return rows
