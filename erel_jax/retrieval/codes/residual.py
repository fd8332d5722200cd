"""Residual quantization: a row is a sum of centroids, each stage codes what the stages before left over.

A nearest centroid per stage can lead astray, so a beam of the best sums so far is carried from stage to stage.

    x ≈ C₁[codes₁] + … + C_S[codes_S],   ⟨y, x⟩ ≈ Σ_s ⟨y, C_s[codes_s]⟩

Reference: additive stages as in Chen et al. (Sensors 2010); the beam as in Babenko and Lempitsky (CVPR 2014).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax import kmeans
from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_vectors
from erel_jax.retrieval.codes.tables import check_fit, number_bytes, numbers_of, scored, stored_numbers

TILE_ROWS = 512


@struct.dataclass
class Residual:
    """The code; see the module docstring. Made by `residual`.

    Attributes:
        centroids: float32[S, C, E] for S stages of C = 16 or 256 centroids.
        beam: sums that are carried from stage to stage while encoding.
    """

    centroids: jax.Array
    beam: int = struct.field(pytree_node=False, default=5)

    @property
    def width(self) -> int:
        """E of the vectors."""
        return self.centroids.shape[2]

    @property
    def bytes_per_vector(self) -> int:
        """One byte per stage, or half of one."""
        return number_bytes(*self.centroids.shape[:2])

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """See `Code.encode`: `codes` uint8[N, S], or 4 bits of each in planes, uint8[N, 4 · ⌈S / 8⌉]."""
        vectors = np.asarray(vectors)
        check_vectors("vectors", vectors, self.width)
        tiles = jnp.asarray(kmeans.tiled(np.asarray(vectors, np.float32), TILE_ROWS))
        numbers = np.asarray(_chosen(self, tiles)).reshape(-1, self.centroids.shape[0])[: len(vectors)]
        return {"codes": stored_numbers(numbers, self.centroids.shape[1])}

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """See `Code.decode`: the sum of the centroids."""
        numbers = self.numbers(stored)

        def add(total: jax.Array, stage: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            centroids, number = stage
            return total + centroids[number], None

        empty = jnp.zeros((numbers.shape[0], self.width), jnp.float32)
        return jax.lax.scan(add, empty, (self.centroids, numbers.T))[0]

    def project(self, queries: jax.Array) -> jax.Array:
        """See `Code.project`: queries as they are."""
        return queries

    def score(self, asked: jax.Array, stored: Mapping[str, Any]) -> jax.Array:
        """See `Scoring.score`: for few queries S numbers of a table are added up per row, without decoding it."""
        return scored(self, asked, stored)

    def tables(self, asked: jax.Array) -> jax.Array:
        """float32[Q, S, C] inner products of queries with all centroids."""
        return jnp.einsum("qe,sce->qsc", asked, self.centroids, precision=jax.lax.Precision.HIGHEST)

    def numbers(self, stored: Mapping[str, Any]) -> jax.Array:
        """int32[N, S] centroids of stored rows."""
        return numbers_of(stored["codes"], *self.centroids.shape[:2])


def residual(
    sample: np.ndarray, stages: int, *, bits: int = 8, beam: int = 5, iterations: int = 10, seed: int = 0
) -> Residual:
    """Fits stage after stage to what the beam of the stages before leaves over of a sample.

    Args:
        sample: float[N, E], at least 2^bits rows of what will be stored; 40 times as many are usual.
        stages: S; the row takes S · bits / 8 bytes.
        bits: per stage, 4 or 8.
        beam: sums that are carried along while fitting and encoding, at most 2^bits; encoding takes time in proportion.
        iterations: Lloyd steps of a stage.
        seed: of the first centroids.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, a setting is out of range, or the sample has fewer rows than
            there are centroids.
    """
    sample = np.asarray(sample)
    check_fit(sample, 2**bits if bits in (4, 8) else 0, iterations)
    if bits not in (4, 8) or stages < 1 or not 1 <= beam <= 2**bits:
        raise ConfigError(
            f"got bits={bits}, stages={stages}, beam={beam}; expected 4 or 8 bits, a stage or more, 1 to 2^bits."
        )
    rows = np.asarray(sample, np.float32)
    scale = np.asarray(kmeans.unit_scale(jnp.asarray(rows)))
    rows = rows * scale
    left, errors = _begun(jnp.asarray(kmeans.tiled(rows, TILE_ROWS)), beam)
    found = []
    for stage in range(stages):
        rest = np.asarray(left[:, :, 0]).reshape(-1, rows.shape[1])[: len(rows)]
        first = kmeans.first_rows(rest, 2**bits, seed + stage)
        centroids = kmeans.fitted(rest, first, iterations=iterations, seed=seed + stage)
        found.append(centroids)
        left, errors = _after(left, errors, jnp.asarray(centroids))
    return Residual(centroids=jnp.asarray(np.stack(found) / scale), beam=beam)


def _begun(tiles: jax.Array, beam: int) -> tuple[jax.Array, jax.Array]:
    """What is left over of each of the beam's sums, float32[..., L, E], and its squared length, float32[..., L].

    All sums are empty in the beginning; only the first may be extended, or the beam would stay L times the same.
    """
    left = jnp.repeat(tiles[..., None, :], beam, axis=-2)
    errors = jnp.sum(jnp.square(tiles), axis=-1)[..., None]
    others = jnp.full((*errors.shape[:-1], beam - 1), jnp.inf, jnp.float32)
    return left, jnp.concatenate([errors, others], axis=-1)


def _extended(
    left: jax.Array, errors: jax.Array, centroids: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The L best of all sums one centroid longer: left over, errors, which sum was extended, by which centroid."""
    beam, count = left.shape[1], len(centroids)
    products = jnp.einsum("nle,ce->nlc", left, centroids, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(jnp.square(centroids), axis=1)
    longer = errors[:, :, None] - 2.0 * products + lengths[None, None, :]
    best, places = jax.lax.top_k(-longer.reshape(-1, beam * count), beam)
    parent, word = places // count, places % count
    left = jnp.take_along_axis(left, parent[:, :, None], axis=1) - centroids[word]
    return left, -best, parent, word


@jax.jit
def _after(left: jax.Array, errors: jax.Array, centroids: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.map(lambda tile: _extended(tile[0], tile[1], centroids)[:2], (left, errors))


@jax.jit
def _chosen(code: Residual, tiles: jax.Array) -> jax.Array:
    stages = code.centroids.shape[0]

    def tile_codes(tile: jax.Array) -> jax.Array:
        scale = kmeans.unit_scale(tile, code.centroids)
        words = jnp.zeros((tile.shape[0], code.beam, stages), jnp.int32)

        def stage(state, part):
            number, centroids = part
            left, errors, words = state
            left, errors, parent, word = _extended(left, errors, centroids)
            words = jnp.take_along_axis(words, parent[:, :, None], axis=1).at[:, :, number].set(word)
            return (left, errors, words), None

        state = (*_begun(tile * scale, code.beam), words)
        (_, _, words), _ = jax.lax.scan(stage, state, (jnp.arange(stages), code.centroids * scale))
        return words[:, 0]

    return jax.lax.map(tile_codes, tiles)
