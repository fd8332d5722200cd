"""EDEN: a random rotation, then each dimension to the nearest of 2^b levels of the normal distribution.

After a random rotation the dimensions of a vector look like draws of one normal distribution, whatever the data was, so
the best levels are known beforehand: nothing is fitted, and rows can be added forever. Each row keeps one factor, with
which the inner product with any query is right on average over rotations.

    r = R x,   u = r √E / ‖r‖,   q = nearest levels of u,   S = ‖r‖² / ⟨q, r⟩,   ⟨y, x⟩ ≈ S ⟨R y, q⟩

Reference: EDEN (Vargaftik et al., ICML 2022), arXiv 2604.18555 for search. With one bit it is the estimator of RaBitQ
(Gao and Long 2024).
"""

from collections.abc import Mapping
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.codes.bits import pack, packed_bytes, unpack
from erel_jax.retrieval.codes.rotation import random_rotation

MOST_BITS = 8
FACTOR_BYTES = 4
_SETTLED = 1e-7


@struct.dataclass
class Eden:
    """The code; see the module docstring. Made by `eden`.

    Attributes:
        rotation: float32[E, E], R.
        levels: float32[2^b], ascending.
        bits: b.
        unbiased: True scales by S, False by ⟨q, r⟩ / ‖q‖², which has the smaller squared error but shrinks.
    """

    rotation: jax.Array
    levels: jax.Array
    bits: int = struct.field(pytree_node=False)
    unbiased: bool = struct.field(pytree_node=False)

    @property
    def width(self) -> int:
        """E of the vectors."""
        return self.rotation.shape[0]

    @property
    def bytes_per_vector(self) -> int:
        """b bits per dimension in whole bytes, and the factor."""
        return packed_bytes(self.width, self.bits) + FACTOR_BYTES

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """See `Code.encode`: `codes` uint8[N, b · ⌈E / 8⌉] and `factor` float32[N]; zero rows have factor 0."""
        vectors = np.asarray(vectors)
        check_vectors("vectors", vectors, self.width)
        rows = np.asarray(vectors, np.float32)
        # Squares leave float32 beyond 1e19 and below 1e-19; a power of two takes no digit away.
        power = np.frexp(np.abs(rows).max(axis=1, keepdims=True))[1]
        turned = np.ldexp(rows, -power) @ np.asarray(self.rotation).T
        norms = np.linalg.norm(turned, axis=1, keepdims=True)
        levels = np.asarray(self.levels)
        units = turned * (np.sqrt(self.width) / np.where(norms > 0, norms, 1))
        chosen = np.searchsorted((levels[1:] + levels[:-1]) / 2, units).astype(np.uint8)
        nearest = levels[chosen]
        along = np.einsum("ne,ne->n", nearest, turned)
        if self.unbiased:
            factor = np.square(norms[:, 0]) / np.where(along > 0, along, 1)
        else:
            factor = along / np.einsum("ne,ne->n", nearest, nearest)
        factor = np.ldexp(np.where(norms[:, 0] > 0, factor, 0), power[:, 0])
        return {"codes": pack(chosen, self.bits), "factor": factor.astype(np.float32)}

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """See `Code.decode`: S q."""
        return self.levels[unpack(stored["codes"], self.bits, self.width)] * stored["factor"][:, None]

    def project(self, queries: jax.Array) -> jax.Array:
        """See `Code.project`: R y."""
        return jnp.matmul(queries, self.rotation.T, precision=jax.lax.Precision.HIGHEST)


def eden(width: int, bits: int = 4, *, unbiased: bool = True, seed: int = 0) -> Eden:
    """The EDEN code of a width.

    Args:
        width: E of the vectors.
        bits: b per dimension, 1 to 8.
        unbiased: see `Eden`; ranking is better or equal with it at 1 and 2 bits.
        seed: of the rotation.

    Raises:
        ConfigError: the bits or the width are out of range.
    """
    # Here, because the cache of levels takes 2.0 and True for 2 and 1.
    check_count(bits, "bits")
    return Eden(
        rotation=jnp.asarray(random_rotation(width, seed)),
        levels=jnp.asarray(normal_levels(bits), jnp.float32),
        bits=bits,
        unbiased=unbiased,
    )


@lru_cache
def normal_levels(bits: int) -> tuple[float, ...]:
    """The 2^b levels that represent a standard normal draw with the least squared error, ascending (Lloyd–Max).

    Raises:
        ConfigError: bits are not 1 to 8.

    Example:
        >>> [round(level, 5) for level in normal_levels(2)]
        [-1.51042, -0.45278, 0.45278, 1.51042]
    """
    if not 1 <= bits <= MOST_BITS:
        raise ConfigError(f"bits is {bits}, expected 1 to {MOST_BITS}.")
    normal, half = NormalDist(), 2 ** (bits - 1)
    # Levels are symmetric; those above 0 are fitted, from the cube root of the normal density (Panter and Dite) on.
    wide = NormalDist(0, np.sqrt(3.0))
    levels = np.array([wide.inv_cdf(0.5 + (i + 0.5) / (2 * half)) for i in range(half)])
    while True:
        borders = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2])
        density = np.array([normal.pdf(border) for border in borders] + [0.0])
        mass = np.array([normal.cdf(border) for border in borders] + [1.0])
        means = (density[:-1] - density[1:]) / (mass[1:] - mass[:-1])
        if np.max(np.abs(means - levels)) < _SETTLED:
            return tuple(np.concatenate([-means[::-1], means]).tolist())
        levels = means
