"""What codes share that name one of C centroids S times, in 4 or 8 bits: storage, and scores by tables.

A table holds the inner products of a query with all centroids; the score of a row is the sum of S entries of it.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_vectors
from erel_jax.retrieval.codes.bits import pack, packed_bytes, unpack

SHORT = 16
"""Centroids that 4 bits name; with 256 a number takes a byte."""

FEW_QUERIES = 4
"""Up to as many, rows are looked up; beyond, decoding them once and one matrix product does less work per query."""


class Tabled(Protocol):
    """A code with tables."""

    def decode(self, stored: Any) -> jax.Array:
        """See `Code.decode`."""
        ...

    def tables(self, asked: jax.Array) -> jax.Array:
        """float32[Q, S, C] inner products of projected queries with all centroids."""
        ...

    def numbers(self, stored: Any) -> jax.Array:
        """int32[N, S] centroids of stored rows."""
        ...


def number_bytes(parts: int, centroids: int) -> int:
    """Bytes of S numbers."""
    return packed_bytes(parts, 4) if centroids == SHORT else parts


def stored_numbers(numbers: np.ndarray, centroids: int) -> np.ndarray:
    """int[N, S] → uint8[N, S], or 4 bits of each in planes, uint8[N, 4 · ⌈S / 8⌉]."""
    numbers = numbers.astype(np.uint8)
    return pack(numbers, 4) if centroids == SHORT else numbers


def numbers_of(stored: jax.Array, parts: int, centroids: int) -> jax.Array:
    """The inverse of `stored_numbers`, int32[N, S]; jittable."""
    return unpack(stored, 4, parts) if centroids == SHORT else jnp.asarray(stored).astype(jnp.int32)


def scored(code: Tabled, asked: jax.Array, stored: Any) -> jax.Array:
    """float32[Q, N]: by tables for few queries, else by one product with decoded rows."""
    if asked.shape[0] <= FEW_QUERIES:
        return table_scores(code.tables(asked), code.numbers(stored))
    return jnp.matmul(asked, code.decode(stored).T, precision=jax.lax.Precision.HIGHEST)


def table_scores(tables: jax.Array, numbers: jax.Array) -> jax.Array:
    """Sums of table entries.

    Args:
        tables: float32[Q, S, C].
        numbers: int32[N, S], below C.

    Returns:
        float32[Q, N]; entry (q, n) is Σ_s tables[q, s, numbers[n, s]].
    """

    def add(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        table, number = part
        return total + jnp.take(table, number, axis=1), None

    empty = jnp.zeros((tables.shape[0], numbers.shape[0]), jnp.float32)
    return jax.lax.scan(add, empty, (tables.transpose(1, 0, 2), numbers.T))[0]


def check_fit(sample: np.ndarray, centroids: int, iterations: int) -> None:
    """Refuses what centroids cannot be fitted to.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, fewer rows than centroids, or no iteration.
    """
    check_vectors("sample", sample)
    if len(sample) < centroids:
        raise ConfigError(
            f"the sample has {len(sample)} rows, expected at least {centroids}, one per centroid (40 per centroid fit "
            "well); take more rows or fewer bits."
        )
    if iterations < 1:
        raise ConfigError(f"got {iterations} iterations, expected at least 1.")
