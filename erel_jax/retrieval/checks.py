"""What vectors and counts a search takes."""

from numbers import Integral
from typing import Any

import numpy as np

from erel_jax.errors import ConfigError, NonFiniteError

ROWS_NAMED = 5


def check_vectors(name: str, vectors: np.ndarray, width: int | None = None) -> None:
    """Refuses what is no matrix of finite floats.

    Args:
        name: what they are, for the error.
        vectors: expected float[N, E] with N, E ≥ 1.
        width: E, where it is known.

    Raises:
        ConfigError: another shape, dtype or width.
        NonFiniteError: NaN or infinity, or a value that float32 cannot hold; names the first rows.
    """
    if vectors.ndim != 2 or not vectors.size or not np.issubdtype(vectors.dtype, np.floating):
        raise ConfigError(f"{name} are {vectors.dtype}{list(vectors.shape)}, expected float[N, E] with a row or more.")
    if width is not None and vectors.shape[1] != width:
        raise ConfigError(f"{name} have width {vectors.shape[1]}, but the corpus has {width}; use the same encoder.")
    # Everything is scored in float32, where a larger float64 is infinite.
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(np.abs(vectors).max(axis=1).astype(np.float32)))
    if len(bad):
        named = ", ".join(map(str, bad[:ROWS_NAMED])) + (", …" if len(bad) > ROWS_NAMED else "")
        raise NonFiniteError(
            f"{len(bad)} of {len(vectors)} {name} hold NaN or infinity, in rows {named}, as float32, which ends at "
            "3.4e38. Leave them out, or scale all vectors down."
        )


def check_count(k: Any, name: str = "k", least: int = 1) -> None:
    """Refuses what is no whole number, or one that is too small.

    Args:
        k: the number.
        name: of the argument, for the error.
        least: the smallest that is allowed.

    Raises:
        ConfigError: with the number.
    """
    if isinstance(k, bool) or not isinstance(k, Integral):
        raise ConfigError(f"{name} is {k!r}, expected a whole number such as {max(least, 1)}; give it as an int.")
    if int(k) < least:
        raise ConfigError(f"{name} is {k}, expected at least {least}.")
