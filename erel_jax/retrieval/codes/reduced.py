"""Fewer dimensions before any other code: the first ones (Matryoshka), the principal ones, or all of them turned.

    code = truncated(64, eden)                  # the first 64 of a Matryoshka encoder, then EDEN
    code = principal(sample, 64, eden)          # the 64 that say most, for an encoder that was not trained so
    code = rotated(256, Int8PerVector)          # all of them, evenly

Rows and queries are brought to length one after dimensions left, before they are coded: scores are cosines in the
smaller space.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_vectors
from erel_jax.retrieval.codes.code import Code, scores_of
from erel_jax.retrieval.codes.floats import Float32
from erel_jax.retrieval.codes.rotation import random_rotation

LEAST_SAMPLE = 100


@struct.dataclass
class Reduced:
    """A code of fewer dimensions. Made by `truncated`, `principal` or `rotated`.

    Attributes:
        inner: code of width d that stores what is left.
        width: E of the vectors.
        basis: float32[E, d] with orthonormal columns; None keeps the first d dimensions.
    """

    inner: Code
    width: int = struct.field(pytree_node=False)
    basis: jax.Array | None = None

    @property
    def bytes_per_vector(self) -> int:
        """Those of the inner code."""
        return self.inner.bytes_per_vector

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """See `Code.encode`: what the inner code stores; rows that keep nothing stay zero."""
        return self.inner.encode(self.kept(vectors))

    def kept(self, vectors: np.ndarray) -> np.ndarray:
        """float[N, E] → float32[N, d], what the inner code stores; also what to fit an inner code to.

        Raises:
            ConfigError, NonFiniteError: as `check_vectors`.
        """
        vectors = np.asarray(vectors)
        check_vectors("vectors", vectors, self.width)
        rows = np.asarray(vectors, np.float32)
        kept = rows[:, : self.inner.width] if self.basis is None else rows @ np.asarray(self.basis)
        if kept.shape[1] < self.width:
            kept = _unit(kept, np)
        return kept

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """See `Code.decode`: as the inner code."""
        return self.inner.decode(stored)

    def project(self, queries: jax.Array) -> jax.Array:
        """See `Code.project`: reduced and brought to length one like rows, then as the inner code."""
        if self.basis is None:
            kept = queries[:, : self.inner.width]
        else:
            kept = jnp.matmul(queries, self.basis, precision=jax.lax.Precision.HIGHEST)
        if kept.shape[1] < self.width:
            kept = _unit(kept, jnp)
        return self.inner.project(kept)

    def score(self, asked: jax.Array, stored: Mapping[str, Any]) -> jax.Array:
        """See `Scoring.score`: as the inner code."""
        return scores_of(self.inner, asked, stored)


def truncated(width: int, kept: int, inner: Callable[[int], Code] = Float32) -> Reduced:
    """The first dimensions, for encoders trained so that these can stand alone (Matryoshka).

    Args:
        width: E of the vectors.
        kept: d, dimensions to keep.
        inner: code of a width, such as `eden` or `Int8PerVector`. One that is fitted takes what is kept of a sample:
            `lambda width: product(truncated(256, width).kept(sample), 16)`.

    Raises:
        ConfigError: `kept` is not 1 to E, or the inner code has another width.
    """
    return _composed(inner, width, kept, None)


def principal(sample: np.ndarray, kept: int, inner: Callable[[int], Code] = Float32) -> Reduced:
    """The directions that keep most of the sample's inner products (PCA about the origin, which needs no offset).

    Args:
        sample: float[N, E], at least 100 rows of what will be stored.
        kept: d, directions to keep; with E it is a rotation.
        inner: code of a width.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, too few rows, or as `truncated`.
    """
    sample = np.asarray(sample)
    check_vectors("sample", sample)
    if len(sample) < LEAST_SAMPLE:
        raise ConfigError(f"the sample has {len(sample)} rows, expected at least {LEAST_SAMPLE} to fit directions to.")
    rows = np.asarray(sample, np.float64)
    directions = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, : max(kept, 0)]
    return _composed(inner, sample.shape[1], kept, directions.astype(np.float32))


def rotated(width: int, inner: Callable[[int], Code], *, seed: int = 0) -> Reduced:
    """All dimensions, turned at random: what a row says is spread evenly, which int8 with one step per row profits of.

    Raises:
        ConfigError: as `random_rotation` and `truncated`.
    """
    return _composed(inner, width, width, random_rotation(width, seed).T)


def _unit(rows: Any, xp: Any) -> Any:
    """Rows of length one, zeros left as they are; `xp` is NumPy or its JAX twin."""
    # By the largest value first: squares leave float32 beyond 1e19 and below 1e-19.
    largest = xp.max(xp.abs(rows), axis=1, keepdims=True)
    rows = rows / xp.where(largest > 0, largest, 1.0)
    lengths = xp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / xp.where(lengths > 0, lengths, 1.0)


def _composed(inner: Callable[[int], Code], width: int, kept: int, basis: np.ndarray | None) -> Reduced:
    if not 1 <= kept <= width:
        raise ConfigError(f"got {kept} dimensions to keep of {width}, expected 1 to {width}.")
    code = inner(kept)
    if code.width != kept:
        raise ConfigError(
            f"the inner code has width {code.width}, expected {kept}: fit it to a sample of the dimensions kept."
        )
    return Reduced(inner=code, width=width, basis=None if basis is None else jnp.asarray(basis))
