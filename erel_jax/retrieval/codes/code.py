"""What a vector code is: how rows are stored, and how stored rows are scored.

A code belongs to one width and is a pytree, so that compiled functions take it as an argument. Scoring is asymmetric:
queries stay float32 and are brought into the code's space once (`project`), stored rows block by block (`decode`); the
score is the inner product of the two. A code whose parameters are fitted to data makes them in its own factory
(`int8_per_dimension(sample)`), the others need only the width.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Stored = Mapping[str, np.ndarray]
"""Arrays with one row per vector."""


class Code(Protocol):
    """A way to store vectors of one width.

    Attributes:
        width: E of the vectors.
        bytes_per_vector: what one stored row takes.
    """

    @property
    def width(self) -> int:
        """E of the vectors."""
        ...

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one stored row."""
        ...

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """float32[N, E] → arrays with N rows; raises `NonFiniteError` or `ConfigError` as `check_vectors`."""
        ...

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """Stored rows → float32[N, D] in the code's space; jittable."""
        ...

    def project(self, queries: jax.Array) -> jax.Array:
        """float32[Q, E] → float32[Q, D] in the code's space; jittable."""
        ...


@runtime_checkable
class Scoring(Protocol):
    """A code that knows a shorter way to scores than decoding rows."""

    def score(self, asked: jax.Array, stored: Mapping[str, Any]) -> jax.Array:
        """Projected queries float32[Q, D] and N stored rows → float32[Q, N] estimated inner products; jittable."""
        ...


def scores_of(code: Code, asked: jax.Array, stored: Mapping[str, Any]) -> jax.Array:
    """Estimated inner products.

    Args:
        code: how rows are stored.
        asked: float32[Q, D], from `code.project`.
        stored: N rows, from `code.encode`.

    Returns:
        float32[Q, N].
    """
    if isinstance(code, Scoring):
        return code.score(asked, stored)
    return jnp.matmul(asked, code.decode(stored).T, precision=jax.lax.Precision.HIGHEST)
