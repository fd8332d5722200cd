"""Spherical k-means: directions around which embeddings gather.

Centroids are fitted on a random sample that fits in memory, with plain Lloyd steps; all rows are then assigned in one
pass over their blocks. For finding near-duplicates nothing better is needed: the clusters only say which rows are
worth comparing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.kmeans import first_rows, fitted, tile_rows_for
from erel_jax.selection.blocks import Embeddings, blocks_of


class RowSample:
    """A uniform sample of at most `size` rows of a stream, in row order; the same for any cutting into blocks.

    Args:
        size: rows to keep.
        seed: decides which.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._draw = np.random.default_rng(seed)
        self._keys: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._limit = np.inf

    def add(self, block: np.ndarray) -> None:
        """Offers the next rows float32[b, E]."""
        keys = self._draw.random(len(block))
        chosen = keys < self._limit
        self._keys.append(keys[chosen])
        self._rows.append(block[chosen])
        if sum(map(len, self._keys)) > 2 * self._size:
            self._shrink()

    def rows(self) -> np.ndarray:
        """float32[S, E], S = min(size, rows offered)."""
        self._shrink()
        return self._rows[0]

    def _shrink(self) -> None:
        keys, rows = np.concatenate(self._keys), np.concatenate(self._rows)
        if len(keys) > self._size:
            self._limit = float(np.partition(keys, self._size)[self._size])
            keys, rows = keys[keys < self._limit], rows[keys < self._limit]
        self._keys, self._rows = [keys], [rows]


def fit_centroids(sample: np.ndarray, clusters: int, *, iterations: int = 10, seed: int = 0) -> np.ndarray:
    """Fits centroids to a sample by cosine.

    Args:
        sample: float32[S, E]; zero rows have cosine 0 to everything and pull nothing.
        clusters: number of centroids K, at most S.
        iterations: Lloyd steps.
        seed: which rows the centroids begin at.

    Returns:
        float32[K, E], rows of length one. A centroid that attracts no row stays where it is.

    Raises:
        ConfigError: `clusters` or `iterations` is out of range, or the sample holds NaN or infinity.

    Numerics: float32; sums run in the device's order, so centroids may differ in the last bits between machines.
    """
    if np.ndim(sample) != 2 or not np.isfinite(sample).all():
        raise ConfigError(f"the sample has shape {list(np.shape(sample))}, expected finite rows [S, E].")
    if not 1 <= clusters <= len(sample):
        raise ConfigError(f"got {clusters} clusters for {len(sample)} rows, expected 1 to {len(sample)}.")
    if iterations < 1:
        raise ConfigError(f"got {iterations} iterations, expected at least 1.")
    rows = unit_rows(sample)
    first = first_rows(rows, clusters, seed)
    return fitted(rows, first, iterations=iterations, spherical=True, refill=False)


def nearest_centroids(
    source: Embeddings, centroids: np.ndarray, *, probes: int = 1, rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Assigns all rows in one pass.

    Args:
        source: float[N, E] or stream of blocks.
        centroids: float32[K, E].
        probes: how many centroids to name for each row, at most K.
        rows: rows compared at a time; None takes as many as `erel_jax.kmeans.TILE_SCORES` allows.

    Returns:
        (int32[N, probes] centroids, the nearest first, and float32[N] cosine to the nearest).

    Raises:
        ConfigError, DataError, NonFiniteError: as `blocks_of`; or `probes` is out of range, or the centroids hold NaN.
    """
    if np.ndim(centroids) != 2 or not np.isfinite(centroids).all():
        raise ConfigError(f"centroids have shape {list(np.shape(centroids))}, expected finite rows [K, E].")
    if not 1 <= probes <= len(centroids):
        raise ConfigError(f"got probes={probes} for {len(centroids)} clusters, expected 1 to {len(centroids)}.")
    rows = tile_rows_for(len(centroids)) if rows is None else rows
    directions = jnp.asarray(unit_rows(np.asarray(centroids, np.float32)))
    near, cosines = [], []
    for _, block in blocks_of(source, rows=rows, width=directions.shape[1]):
        padded = np.pad(block, ((0, rows - len(block)), (0, 0)))
        found, best = _nearest(padded, directions, probes=probes)
        near.append(np.asarray(found)[: len(block)])
        cosines.append(np.asarray(best)[: len(block)])
    return np.concatenate(near), np.concatenate(cosines)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float32[N, E] rows of length one; zero rows stay zero."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    scaled = rows / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    return (scaled / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _nearest_of(rows: jax.Array, centroids: jax.Array, *, probes: int) -> tuple[jax.Array, jax.Array]:
    lengths = jnp.linalg.norm(rows, axis=1)
    cosines = jnp.einsum("ne,ke->nk", rows, centroids, preferred_element_type=jnp.float32)
    best = jnp.max(cosines, axis=1) / jnp.where(lengths > 0, lengths, 1.0)
    columns = jnp.arange(centroids.shape[0], dtype=jnp.int32)[None, :]
    found = []
    for _ in range(probes):
        owner = jnp.argmax(cosines, axis=1).astype(jnp.int32)
        found.append(owner)
        cosines = jnp.where(columns == owner[:, None], -jnp.inf, cosines)
    return jnp.stack(found, axis=1), best


_nearest = jax.jit(_nearest_of, static_argnames="probes")
