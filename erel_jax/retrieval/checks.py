"""What vectors a search takes."""

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
        NonFiniteError: NaN or infinity; names the first rows.
    """
    if vectors.ndim != 2 or not vectors.size or not np.issubdtype(vectors.dtype, np.floating):
        raise ConfigError(f"{name} are {vectors.dtype}{list(vectors.shape)}, expected float[N, E] with a row or more.")
    if width is not None and vectors.shape[1] != width:
        raise ConfigError(f"{name} have width {vectors.shape[1]}, but the corpus has {width}; use the same encoder.")
    # A sum is finite only if all its terms are, and needs no array of the size of the data.
    bad = np.flatnonzero(~np.isfinite(np.abs(vectors).sum(axis=1, dtype=np.float64)))
    if len(bad):
        named = ", ".join(map(str, bad[:ROWS_NAMED])) + (", …" if len(bad) > ROWS_NAMED else "")
        raise NonFiniteError(
            f"{len(bad)} of {len(vectors)} {name} hold NaN or infinity, in rows {named}. Leave them out."
        )


def check_count(k: int) -> None:
    """Refuses a number of hits below 1.

    Raises:
        ConfigError: with the number.
    """
    if k < 1:
        raise ConfigError(f"k is {k}, expected at least 1.")
