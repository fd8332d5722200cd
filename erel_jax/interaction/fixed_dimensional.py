"""MUVERA's fixed-dimensional encodings: one vector per set of tokens, whose inner product stands for MaxSim.

Random hyperplanes divide the space into buckets. A query adds up its tokens in each bucket, a document takes the mean
of its tokens there, so that each query token meets roughly the document tokens that are near it. Several independent
divisions stand side by side. The encodings are ordinary vectors: any index of `retrieval` finds candidates with them,
and `maxsim` ranks those exactly.

Reference: MUVERA (Dhulipala et al. 2024), arXiv 2405.19504.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax.errors import ConfigError

MOST_PLANES = 12


@struct.dataclass
class Divisions:
    """The random parts of an encoding; queries and documents share them. Made by `divisions`.

    Attributes:
        planes: float32[R, E, k], R repetitions of k hyperplanes, 2^k buckets each.
        projections: float32[R, E, P], ±1/√P: tokens are narrowed to P numbers before they are added up.
    """

    planes: jax.Array
    projections: jax.Array

    @property
    def width(self) -> int:
        """Width of an encoding, R · 2^k · P."""
        repetitions, _, planes = self.planes.shape
        return repetitions * 2**planes * self.projections.shape[2]


def divisions(width: int, *, repetitions: int = 20, planes: int = 4, projected: int = 8, seed: int = 0) -> Divisions:
    """Random divisions of a space of tokens.

    Args:
        width: E of the tokens.
        repetitions: R; more bring the inner product nearer to MaxSim.
        planes: k hyperplanes, 2^k buckets.
        projected: P numbers kept of each token.
        seed: equal seeds give equal divisions.

    Raises:
        ConfigError: a number is out of range.

    Published settings (R, k, P): (20, 3, 8), (20, 4, 8), (20, 5, 8) and (20, 5, 16), of 1,280 to 10,240 numbers.
    """
    if min(width, repetitions, projected) < 1 or not 1 <= planes <= MOST_PLANES:
        raise ConfigError(
            f"got width={width}, repetitions={repetitions}, planes={planes}, projected={projected}; expected 1 or "
            f"more, and 1 to {MOST_PLANES} planes."
        )
    draw = np.random.default_rng(seed)
    normals = draw.standard_normal((repetitions, width, planes)).astype(np.float32)
    signs = draw.choice(np.array([-1, 1], np.float32), (repetitions, width, projected)) / np.sqrt(projected)
    return Divisions(planes=jnp.asarray(normals), projections=jnp.asarray(signs, jnp.float32))


def fixed_dimensional_queries(parts: Divisions, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Encodings of queries: tokens are added up in each bucket.

    Args:
        parts: the divisions.
        tokens: float[N, T, E].
        mask: bool[N, T], False for padding.

    Returns:
        float32[N, R · 2^k · P]; zeros for a query without tokens. Jittable and differentiable in the tokens.

    Raises:
        ConfigError: shapes that do not fit.
    """
    sums, _, _, _ = _by_bucket(parts, tokens, mask)
    return sums.reshape(tokens.shape[0], -1)


def fixed_dimensional_documents(
    parts: Divisions, tokens: jax.Array, mask: jax.Array, *, fill_empty: bool = False
) -> jax.Array:
    """Encodings of documents: the mean of the tokens in each bucket.

    Args:
        parts, tokens, mask: as for queries.
        fill_empty: a bucket without tokens takes the token whose bucket differs in the fewest hyperplanes, the first of
            several; otherwise it stays zero. Which is better depends on the corpus: measure.

    Returns:
        float32[N, R · 2^k · P]; zeros for a document without tokens.

    Raises:
        ConfigError: shapes that do not fit.
    """
    sums, counts, buckets, narrow = _by_bucket(parts, tokens, mask)
    means = sums / jnp.maximum(counts, 1.0)[..., None]
    if fill_empty:
        means = jnp.where((counts > 0)[..., None], means, _nearest(buckets, narrow, mask, counts.shape[2]))
    return means.reshape(tokens.shape[0], -1)


def _by_bucket(parts: Divisions, tokens: jax.Array, mask: jax.Array):
    """Sums float32[N, R, 2^k, P] and counts [N, R, 2^k]; of tokens the buckets [N, R, T], numbers [N, R, T, P]."""
    if tokens.ndim != 3 or mask.shape != tokens.shape[:2] or tokens.shape[2] != parts.planes.shape[1]:
        raise ConfigError(
            f"tokens have shape {tokens.shape} and mask {mask.shape}, expected [N, T, {parts.planes.shape[1]}], [N, T]."
        )
    exact = jax.lax.Precision.HIGHEST
    sides = jnp.einsum("nte,rek->nrtk", tokens, parts.planes, precision=exact) > 0
    powers = 2 ** jnp.arange(parts.planes.shape[2], dtype=jnp.int32)
    buckets = jnp.sum(sides.astype(jnp.int32) * powers[None, None, None], axis=3)
    narrow = jnp.einsum("nte,rep->nrtp", tokens, parts.projections, precision=exact).astype(jnp.float32)
    member = jax.nn.one_hot(buckets, 2 ** parts.planes.shape[2], dtype=jnp.float32)
    member = jnp.where(mask[:, None, :, None], member, 0.0)
    # Padding may hold anything, NaN included.
    narrow = jnp.where(mask[:, None, :, None], narrow, 0.0)
    return jnp.einsum("nrtb,nrtp->nrbp", member, narrow, precision=exact), jnp.sum(member, axis=2), buckets, narrow


def _nearest(buckets: jax.Array, narrow: jax.Array, mask: jax.Array, count: int) -> jax.Array:
    """For each bucket the numbers of the token nearest to it in hyperplanes, float32[N, R, 2^k, P]."""
    differing = buckets[..., None] ^ jnp.arange(count, dtype=jnp.int32)[None, None, None]
    distance = jax.lax.population_count(differing)
    distance = jnp.where(mask[:, None, :, None], distance, MOST_PLANES + 1)
    chosen = jnp.argmin(distance, axis=2)
    return jnp.take_along_axis(narrow, chosen[..., None], axis=2)
