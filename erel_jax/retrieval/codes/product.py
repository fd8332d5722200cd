"""Product quantization: the dimensions are cut into parts, each part is stored as the number of its nearest centroid.

Rotating first helps where neighboring dimensions say unequally much: a random rotation spreads what a vector says over
all parts, a fitted one (OPQ) takes turns with the centroids, each the best for the other.

    R x = (x₁, …, x_S),   codes_s = argmin_c ‖x_s − C_s[c]‖,   ⟨y, x⟩ ≈ Σ_s ⟨(R y)_s, C_s[codes_s]⟩

Reference: PQ (Jégou et al., PAMI 2011), OPQ (Ge et al., CVPR 2013).
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax import kmeans
from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_vectors
from erel_jax.retrieval.codes.rotation import random_rotation
from erel_jax.retrieval.codes.tables import check_fit, number_bytes, numbers_of, scored, stored_numbers

TURN_ITERATIONS = 3
"""Lloyd steps between two rotations; they begin at the centroids of the turn before."""


@struct.dataclass
class Product:
    """The code; see the module docstring. Made by `product`.

    Attributes:
        centroids: float32[S, C, E / S] for S parts and C = 16 or 256 centroids each.
        rotation: float32[E, E], R; None for none.
    """

    centroids: jax.Array
    rotation: jax.Array | None = None

    @property
    def width(self) -> int:
        """E of the vectors."""
        return self.centroids.shape[0] * self.centroids.shape[2]

    @property
    def bytes_per_vector(self) -> int:
        """One byte per part, or half of one."""
        return number_bytes(*self.centroids.shape[:2])

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """See `Code.encode`: `codes` uint8[N, S], or 4 bits of each in planes, uint8[N, 4 · ⌈S / 8⌉]."""
        vectors = np.asarray(vectors)
        check_vectors("vectors", vectors, self.width)
        tiles = jnp.asarray(kmeans.tiled(np.asarray(vectors, np.float32), kmeans.MOST_TILE_ROWS))
        numbers = np.asarray(_chosen(self, tiles)).reshape(-1, self.centroids.shape[0])[: len(vectors)]
        return {"codes": stored_numbers(numbers, self.centroids.shape[1])}

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """See `Code.decode`: the centroids side by side, in rotated space."""
        numbers = self.numbers(stored)
        chosen = self.centroids[jnp.arange(self.centroids.shape[0])[None, :], numbers]
        return chosen.reshape(len(numbers), -1)

    def project(self, queries: jax.Array) -> jax.Array:
        """See `Code.project`: R y."""
        return turned(queries, self.rotation)

    def score(self, asked: jax.Array, stored: Mapping[str, Any]) -> jax.Array:
        """See `Scoring.score`: for few queries S numbers of a table are added up per row, without decoding it."""
        return scored(self, asked, stored)

    def tables(self, asked: jax.Array) -> jax.Array:
        """float32[Q, S, C] inner products of the parts of projected queries with all centroids."""
        parts = asked.reshape(asked.shape[0], self.centroids.shape[0], -1)
        return jnp.einsum("qsd,scd->qsc", parts, self.centroids, precision=jax.lax.Precision.HIGHEST)

    def numbers(self, stored: Mapping[str, Any]) -> jax.Array:
        """int32[N, S] centroids of stored rows."""
        return numbers_of(stored["codes"], *self.centroids.shape[:2])


def product(
    sample: np.ndarray,
    parts: int,
    *,
    bits: int = 8,
    rotation: Literal["none", "random", "fitted"] = "random",
    iterations: int = 15,
    turns: int = 10,
    seed: int = 0,
) -> Product:
    """Fits centroids, and the rotation where it is to be fitted, to a sample.

    Args:
        sample: float[N, E], at least 2^bits rows of what will be stored; 40 times as many are usual.
        parts: S, which divides E; the row takes S · bits / 8 bytes.
        bits: per part, 4 or 8.
        rotation: "none" keeps the dimensions, "random" spreads them, "fitted" is OPQ, begun at the random one.
        iterations: Lloyd steps.
        turns: times that the fitted rotation and the centroids take turns.
        seed: of the rotation and of the first centroids.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, the parts do not divide the width, a setting is out of range,
            or the sample has fewer rows than there are centroids.
    """
    sample = np.asarray(sample)
    check_fit(sample, 2**bits if bits in (4, 8) else 0, iterations)
    width = sample.shape[1]
    if bits not in (4, 8) or rotation not in ("none", "random", "fitted") or turns < 1:
        raise ConfigError(
            f"got bits={bits}, rotation={rotation!r}, turns={turns}; expected 4 or 8 bits, rotation none, random or "
            "fitted, and a turn or more."
        )
    if parts < 1 or width % parts:
        raise ConfigError(f"got {parts} parts for width {width}, expected a number that divides it.")
    rows = np.asarray(sample, np.float32)
    turn = None if rotation == "none" else random_rotation(width, seed)
    seen = rows if turn is None else rows @ turn.T
    first = kmeans.first_rows(seen, 2**bits, seed)
    centroids = _split(first, parts)
    for _ in range(turns if rotation == "fitted" else 0):
        centroids = _centroids(seen, centroids, TURN_ITERATIONS, seed)
        turn = _procrustes(rows, _rebuilt(seen, centroids))
        seen = rows @ turn.T
    centroids = _centroids(seen, centroids, iterations, seed)
    return Product(centroids=jnp.asarray(centroids), rotation=None if turn is None else jnp.asarray(turn))


def turned(rows: jax.Array, rotation: jax.Array | None) -> jax.Array:
    """R x of each row, or the rows where there is no rotation; jittable."""
    if rotation is None:
        return rows
    return jnp.matmul(rows, rotation.T, precision=jax.lax.Precision.HIGHEST)


def _split(rows: np.ndarray, parts: int) -> np.ndarray:
    """float32[N, E] → float32[S, N, E / S], contiguous."""
    return np.ascontiguousarray(rows.reshape(len(rows), parts, -1).transpose(1, 0, 2))


def _centroids(seen: np.ndarray, centroids: np.ndarray, iterations: int, seed: int) -> np.ndarray:
    parts = _split(seen, len(centroids))
    return np.stack(
        [
            kmeans.fitted(part, first, iterations=iterations, seed=seed + number)
            for number, (part, first) in enumerate(zip(parts, centroids, strict=True))
        ]
    )


def _rebuilt(seen: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    code = Product(centroids=jnp.asarray(centroids))
    return np.asarray(code.decode(code.encode(seen)))


def _procrustes(rows: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """The rotation R with the least Σ ‖R x − rebuilt‖²."""
    left, _, right = np.linalg.svd(rebuilt.astype(np.float64).T @ rows.astype(np.float64))
    return (left @ right).astype(np.float32)


@jax.jit
def _chosen(code: Product, tiles: jax.Array) -> jax.Array:
    parts = code.centroids.shape[0]

    def tile_codes(tile: jax.Array) -> jax.Array:
        split = code.project(tile).reshape(tile.shape[0], parts, -1).transpose(1, 0, 2)
        return jax.lax.map(lambda part: kmeans.owner_of(*part), (split, code.centroids)).T

    return jax.lax.map(tile_codes, tiles)
