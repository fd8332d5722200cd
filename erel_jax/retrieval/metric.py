"""What the scores of an index mean, and whose vectors it holds.

Scores are inner products. The metric `cosine` brings rows and queries to length 1 first, so that both sides agree. The
encoder's fingerprint is any text that changes with the encoder (a digest of its weights, a name with a revision): two
encoders of one width give vectors that fit together in shape and mean nothing to each other.
"""

import numpy as np

from erel_jax.errors import ConfigError, suggest
from erel_jax.retrieval.checks import check_vectors

INNER_PRODUCT, COSINE = "inner_product", "cosine"
METRICS = (INNER_PRODUCT, COSINE)


def check_metric(metric: str) -> None:
    """Refuses a name that is no metric.

    Raises:
        ConfigError: names the known ones.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric is {metric!r}. {suggest(str(metric), METRICS)}")


def prepared(name: str, vectors: np.ndarray, metric: str, width: int | None = None) -> np.ndarray:
    """Vectors as a metric scores them: as they are, or float32 of length 1 (a vector of zeros stays zeros).

    Args:
        name: what they are, for errors.
        vectors: float[N, E].
        metric: one of `METRICS`.
        width: E, where it is known.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors` and `check_metric`.
    """
    check_metric(metric)
    vectors = np.asarray(vectors)
    check_vectors(name, vectors, width)
    if metric == INNER_PRODUCT:
        return vectors
    lengths = np.sqrt(np.einsum("ne,ne->n", vectors, vectors, dtype=np.float64))[:, None]
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def check_same(kept: str | None, given: str | None, what: str) -> None:
    """Refuses vectors that were not made for an index; nothing is known where either side is None.

    Args:
        kept: what the index was built with.
        given: what the caller has.
        what: `encoder` or `metric`.

    Raises:
        ConfigError: names both sides.
    """
    if kept is not None and given is not None and kept != given:
        raise ConfigError(
            f"the index was built with {what} {kept!r}, and this asks with {what} {given!r}; their scores mean nothing "
            f"to each other. Take the same {what}, or build the index again."
        )
