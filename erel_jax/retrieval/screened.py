"""Exact search at the speed of int8: every row is screened by its code, the best are scored again in float32.

Screening multiplies int8 queries by int8 rows, which a processor does several times as fast as float32, and keeps one
number per group of rows: the largest score in it. The K best rows lie in the K groups with the largest scores, so a
short list of groups is all that has to be ranked and scored again; a running list of the best rows is never kept.

    corpus = screened_corpus(vectors)          # once
    hits = search_screened(corpus, queries, 10)

Rounding can put a group behind one that is no better, so the short list is longer than K. `search_exact` scores every
row in float32 and is the oracle; the recall against it is what `shortlist` buys.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.hits import Hits

GROUP = 64
BLOCK = 4096
SLACK = 14


@struct.dataclass
class ScreenedCorpus:
    """Rows as int8 codes in blocks, and as they are; a pytree on the device.

    Attributes:
        codes: int8[C, R, E], C blocks of R rows.
        steps: float32[C, R]; `codes · steps` are the rows.
        penalty: float32[C, R], 0, and -inf where the last block is filled up.
        vectors: float32[C · R, E], the rows, then zeros up to whole blocks.
        rows: number of rows N.
    """

    codes: jax.Array
    steps: jax.Array
    penalty: jax.Array
    vectors: jax.Array
    rows: int = struct.field(pytree_node=False)


def screened_corpus(vectors: np.ndarray, *, block: int = BLOCK) -> ScreenedCorpus:
    """Codes a corpus for `search_screened`.

    Args:
        vectors: float[N, E]; scores are inner products, so normalize for cosines.
        block: rows per block, a multiple of 64.

    Returns:
        The corpus: 5 bytes per dimension and 8 per row.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, or `block` is no multiple of 64.
    """
    if block < GROUP or block % GROUP:
        raise ConfigError(f"block is {block}, expected a multiple of {GROUP}.")
    vectors = np.asarray(vectors)
    check_vectors("vectors", vectors)
    rows, width = vectors.shape
    blocks = -(-rows // block)
    padded = np.zeros((blocks * block, width), np.float32)
    padded[:rows] = vectors
    codes = np.zeros((blocks, block, width), np.int8)
    steps = np.zeros((blocks, block), np.float32)
    penalty = np.where(np.arange(blocks * block) < rows, 0, -np.inf).astype(np.float32).reshape(blocks, block)
    for number in range(blocks):
        part = padded[number * block : (number + 1) * block]
        step = np.abs(part).max(axis=1) / 127
        codes[number] = np.rint(part / np.where(step > 0, step, 1)[:, None]).astype(np.int8)
        steps[number] = step
    return ScreenedCorpus(*(jnp.asarray(part) for part in (codes, steps, penalty, padded)), rows=rows)


def search_screened(
    corpus: ScreenedCorpus,
    queries: np.ndarray,
    k: int,
    *,
    mask: np.ndarray | None = None,
    shortlist: int | None = None,
    batch: int = 64,
) -> Hits:
    """The K rows of largest inner product with each query.

    Args:
        corpus: from `screened_corpus`.
        queries: float[Q, E].
        k: hits per query.
        mask: bool[N], rows that may be found; None allows all.
        shortlist: groups of 64 rows that are scored again; None takes k + 14.
        batch: queries per compiled step. The last batch is filled up, so that nothing recompiles.

    Returns:
        The hits; scores are float32 products of the vectors as given. With k above the number of rows (or of rows
        allowed), the places left over have row -1.

    Raises:
        ConfigError, NonFiniteError: queries as in `check_vectors`, k or the short list is below 1, or the mask has
            another length.

    Ties stand in row order. Memory of a step: batch · N / 64 maxima, and batch · shortlist · 64 rows.

    Relation: `search_exact` scores all rows in float32.
    """
    queries = np.asarray(queries)
    rows, width = corpus.rows, corpus.vectors.shape[1]
    check_vectors("queries", queries, width)
    check_count(k)
    groups = corpus.steps.size // GROUP
    listed = min(k + SLACK if shortlist is None else shortlist, groups)
    if listed < 1 or batch < 1:
        raise ConfigError(f"shortlist is {shortlist} and batch is {batch}, expected at least 1.")
    if mask is not None and np.shape(mask) != (rows,):
        raise ConfigError(f"mask has shape {np.shape(mask)}, expected ({rows},): one bool per row.")
    if mask is not None:
        penalty = np.full(corpus.steps.size, -np.inf, np.float32)
        penalty[:rows][np.asarray(mask, bool)] = 0
        corpus = dataclasses.replace(corpus, penalty=jnp.asarray(penalty.reshape(corpus.steps.shape)))
    found = []
    for start in range(0, len(queries), batch):
        part = np.asarray(queries[start : start + batch], np.float32)
        filled = np.concatenate([part, np.zeros((batch - len(part), width), np.float32)])
        found.append(_search(corpus, jnp.asarray(filled), min(k, listed * GROUP), listed))
    scores, hits = (np.concatenate([np.asarray(pair[side]) for pair in found])[: len(queries)] for side in (0, 1))
    missing = k - scores.shape[1]
    scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    hits = np.pad(hits, ((0, 0), (0, missing)), constant_values=-1)
    return Hits(rows=np.where(np.isfinite(scores), hits, -1).astype(np.int32), scores=scores)


@partial(jax.jit, static_argnames=("k", "listed"))
def _search(corpus: ScreenedCorpus, queries: jax.Array, k: int, listed: int):
    # In row order, so that equal scores come out in row order.
    groups = jnp.sort(jax.lax.top_k(_largest(corpus, queries), listed)[1], axis=1)
    vectors = corpus.vectors.reshape(-1, GROUP, corpus.vectors.shape[1])

    def again(query: tuple[jax.Array, jax.Array]) -> jax.Array:
        vector, own = query
        return jnp.matmul(vectors[own].reshape(-1, len(vector)), vector, precision=jax.lax.Precision.HIGHEST)

    # Query by query: the rows of one query fit in a processor's cache, those of a batch do not.
    scores = jax.lax.map(again, (queries, groups))
    rows = (groups[:, :, None] * GROUP + jnp.arange(GROUP, dtype=jnp.int32)[None, None]).reshape(len(queries), -1)
    best, places = jax.lax.top_k(scores + corpus.penalty.reshape(-1)[rows], k)
    return best, jnp.take_along_axis(rows, places, axis=1)


def _largest(corpus: ScreenedCorpus, queries: jax.Array) -> jax.Array:
    """The largest approximate score of each group of rows, float32[B, G]; queries' own scale does not matter."""
    largest = jnp.max(jnp.abs(queries), axis=1, keepdims=True)
    codes = jnp.round(queries * (127.0 / jnp.where(largest > 0, largest, 1.0))).astype(jnp.int8).T

    def block(_: None, part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        rows, steps, off = part
        # Rows first: a group's scores lie below each other, so that their maximum is one of whole vectors of queries.
        sums = jnp.matmul(rows, codes, preferred_element_type=jnp.int32).astype(jnp.float32)
        scores = sums * steps[:, None] + off[:, None]
        return None, jnp.max(scores.reshape(-1, GROUP, len(queries)), axis=1)

    _, maxima = jax.lax.scan(block, None, (corpus.codes, corpus.steps, corpus.penalty))
    return maxima.reshape(-1, len(queries)).T
