"""Ids of rows: 64-bit numbers or strings, each once. They stay on the host and never pass through 32 bits."""

from collections.abc import Sequence

import numpy as np

from erel_jax.errors import ConfigError, DataError

MISSING_NUMBER, MISSING_TEXT = -1, ""
MOST = np.iinfo(np.int64).max


def as_ids(ids: Sequence[int] | Sequence[str] | np.ndarray, *, once: bool = True) -> np.ndarray:
    """Ids as int64[N] or text[N]; no ids at all are int64[0] unless they come as an array of texts.

    Args:
        ids: the ids.
        once: refuse an id that occurs twice.

    Raises:
        ConfigError: they are neither whole numbers from 0 nor non-empty texts without NUL, or beyond 63 bits.
        DataError: an id occurs twice; names it.
    """
    try:
        found = np.asarray(ids)
    except ValueError as error:
        raise ConfigError(f"ids are no list ({error}), expected [N] of whole numbers or of texts.") from error
    if found.shape == (0,) and found.dtype.kind in "fO":
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iuU":
        raise _no_ids(ids, found)
    if found.dtype.kind == "U":
        for row, one in enumerate(ids):
            # NumPy turns numbers among texts into texts, and cuts NUL off the end of a text.
            if not isinstance(one, str) or "\0" in one:
                raise ConfigError(f"id {one!r} of row {row} is among texts, expected a text without NUL; change it.")
        empty = np.flatnonzero(found == MISSING_TEXT)
    else:
        if found.dtype.kind == "u" and found.size and found.max() > MOST:
            raise _too_large(int(found.max()))
        found = found.astype(np.int64)
        empty = np.flatnonzero(found < 0)
    if len(empty):
        raise ConfigError(f"id {found[empty[0]].item()!r} of row {empty[0]} is kept for `nothing found`; use another.")
    if once:
        unique, counts = np.unique(found, return_counts=True)
        if len(unique) < len(found):
            raise DataError(f"id {unique[counts > 1][0].item()!r} occurs {counts.max()} times, expected each id once.")
    return found


def _no_ids(ids: Sequence[int] | Sequence[str] | np.ndarray, found: np.ndarray) -> ConfigError:
    if found.dtype.kind == "b":
        return ConfigError(
            f"ids are a mask, bool{list(found.shape)}, expected ids themselves: index.ids[mask] are those of a mask."
        )
    large = [one for one in ids if isinstance(one, int) and abs(one) > MOST] if found.ndim == 1 else []
    if large:
        return _too_large(large[0])
    return ConfigError(f"ids are {found.dtype}{list(found.shape)}, expected [N] of whole numbers or of texts.")


def _too_large(one: int) -> ConfigError:
    return ConfigError(f"id {one} does not fit in 63 bits; use texts for such ids.")


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
    if not len(wanted):
        return np.zeros(0, np.int64)
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
