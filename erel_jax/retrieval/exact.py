"""Exact search: every row is scored in float32. Slow, simple, and what every faster search is measured against."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.hits import Hits


def search_exact(
    vectors: np.ndarray, queries: np.ndarray, k: int, *, mask: np.ndarray | None = None, block: int = 16384
) -> Hits:
    """The K rows of largest inner product with each query.

    Args:
        vectors: float[N, E], in memory or mapped from disk; read block by block.
        queries: float[Q, E].
        k: hits per query.
        mask: bool[N], rows that may be found; None allows all.
        block: rows per step; memory is Q · (block + k) floats and a block of rows.

    Returns:
        The hits; with k above the number of rows allowed, the places left over have row -1.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, k or block is below 1, or the mask has another length.

    Ties stand in row order. Relation: `search_screened` finds the same several times as fast, with codes made before.
    """
    queries = np.asarray(queries)
    check_vectors("queries", queries, vectors.shape[1] if np.ndim(vectors) == 2 else None)
    check_count(k)
    if block < 1 or (mask is not None and np.shape(mask) != (len(vectors),)):
        raise ConfigError(f"block is {block} and mask has shape {np.shape(mask)}, expected 1 or more and [N].")
    asked = jnp.asarray(queries, jnp.float32)
    best = jnp.full((len(queries), k), -jnp.inf, jnp.float32), jnp.full((len(queries), k), -1, jnp.int32)
    for start in range(0, len(vectors), block):
        part = np.asarray(vectors[start : start + block])
        check_vectors(f"vectors from row {start}", part, queries.shape[1])
        allowed = np.zeros(block, bool)
        allowed[: len(part)] = True if mask is None else mask[start : start + block]
        rows = np.zeros((block, part.shape[1]), np.float32)
        rows[: len(part)] = part
        best = _merged(best, asked, jnp.asarray(rows), jnp.asarray(allowed), jnp.int32(start), k)
    scores, found = (np.asarray(side) for side in best)
    return Hits(rows=np.where(np.isfinite(scores), found, -1).astype(np.int32), scores=scores)


@partial(jax.jit, static_argnames=("k",))
def _merged(best, queries, rows, allowed, start, k):
    scores = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
    scores = jnp.where(allowed[None, :], scores, -jnp.inf)
    numbers = jnp.broadcast_to(start + jnp.arange(len(rows), dtype=jnp.int32)[None, :], scores.shape)
    # Earlier rows stand first, and of equal scores the first is taken.
    together = jnp.concatenate([best[0], scores], axis=1)
    values, places = jax.lax.top_k(together, k)
    return values, jnp.take_along_axis(jnp.concatenate([best[1], numbers], axis=1), places, axis=1)
