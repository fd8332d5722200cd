"""Search over stored codes: every row is decoded block by block and scored by float queries."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.retrieval.blocks import blocks_ahead
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.codes.code import Code, scores_of
from erel_jax.retrieval.hits import Hits


def search_coded(
    code: Code,
    stored: Mapping[str, np.ndarray],
    queries: np.ndarray,
    k: int,
    *,
    mask: np.ndarray | None = None,
    block: int = 16384,
) -> Hits:
    """The K stored rows of largest estimated inner product with each query.

    Args:
        code: how rows are stored.
        stored: what `code.encode` gave; arrays in memory or mapped from disk, read block by block, one block ahead.
        queries: float[Q, E].
        k: hits per query.
        mask: bool[N], rows that may be found; None allows all.
        block: rows per step.

    Returns:
        The hits, with estimated scores; with k above the number of rows allowed, the places left over have row -1.

    Raises:
        ConfigError, NonFiniteError: as `search_exact`.

    Ties stand in row order. Relation: `rescored` orders the hits by their true scores; `search_exact` needs no code.
    """
    queries = np.asarray(queries)
    check_vectors("queries", queries, code.width)
    check_count(k)
    rows = len(next(iter(stored.values())))
    if block < 1 or (mask is not None and np.shape(mask) != (rows,)):
        raise ConfigError(f"block is {block} and mask has shape {np.shape(mask)}, expected 1 or more and ({rows},).")
    asked = code.project(jnp.asarray(queries, jnp.float32))
    best = jnp.full((len(queries), k), -jnp.inf, jnp.float32), jnp.full((len(queries), k), -1, jnp.int32)
    for start, count, part in blocks_ahead(stored, block):
        allowed = np.zeros(block, bool)
        allowed[:count] = True if mask is None else mask[start : start + count]
        # Scoring runs behind this loop; were it not waited for, blocks would pile up before it.
        jax.block_until_ready(best)
        arrays = {name: jnp.asarray(values) for name, values in part.items()}
        best = merged(best, code, asked, arrays, jnp.asarray(allowed), jnp.int32(start), k)
    scores, found = (np.asarray(side) for side in best)
    return Hits(rows=np.where(np.isfinite(scores), found, -1).astype(np.int32), scores=scores)


def rescored(hits: Hits, vectors: np.ndarray, queries: np.ndarray, k: int) -> Hits:
    """The K best of the hits by true inner products.

    Args:
        hits: from a search with more than K hits per query; four times as many are usual.
        vectors: float[N, E], the rows as they were, in memory or mapped from disk; only those of the hits are read.
        queries: float[Q, E], those of the search.
        k: hits to keep, at most as many as there are.

    Raises:
        ConfigError: k is above the number of hits, there is another number of queries, or the vectors are of another
            width or fewer than the hits name.
    """
    check_count(k)
    vectors, queries = np.asanyarray(vectors), np.asarray(queries, np.float32)
    if k > hits.rows.shape[1] or len(queries) != len(hits):
        raise ConfigError(
            f"k is {k} for {hits.rows.shape[1]} hits per query, and there are {len(queries)} queries for {len(hits)} "
            "rows of hits; expected k up to the hits, and the same queries."
        )
    last = hits.rows.max(initial=-1)
    if queries.ndim != 2 or vectors.shape[1:] != queries.shape[1:] or last >= len(vectors):
        raise ConfigError(
            f"vectors have shape {vectors.shape} and queries {queries.shape}, for hits up to row {last}; expected "
            "[N, E] and [Q, E] of one width, and all the rows that were searched."
        )
    if not len(vectors):
        return Hits(rows=hits.rows[:, :k], scores=hits.scores[:, :k])
    order = np.argsort(hits.rows, axis=1, kind="stable")
    rows = np.take_along_axis(hits.rows, order, axis=1)
    candidates = np.asarray(vectors[np.maximum(rows, 0)], np.float32)
    scores = np.matmul(candidates, queries[:, :, None])[:, :, 0]
    scores = np.where(rows >= 0, scores, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores, rows = (np.take_along_axis(side, best, axis=1) for side in (scores, rows))
    return Hits(rows=rows.astype(np.int32), scores=scores.astype(np.float32))


@partial(jax.jit, static_argnames=("k",))
def merged(best, code, queries, part, allowed, start, k):
    """The K best of those found before and of one more block; jittable.

    Args:
        best: scores float32[Q, K] and rows int32[Q, K] found before, best first.
        code: how rows are stored.
        queries: float32[Q, D], projected.
        part: R stored rows.
        allowed: bool[R].
        start: int32, number of the first row.
        k: K, static.
    """
    scores = jnp.where(allowed[None, :], scores_of(code, queries, part), -jnp.inf)
    # What was found before stands first, and of equal scores the first is taken: ties stay in row order.
    numbers = jnp.broadcast_to(start + jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :], scores.shape)
    values, places = jax.lax.top_k(jnp.concatenate([best[0], scores], axis=1), k)
    return values, jnp.take_along_axis(jnp.concatenate([best[1], numbers], axis=1), places, axis=1)
