"""Search in inverted lists: only the rows filed under the centroids nearest to a query are scored.

Rows lie list by list in blocks of fixed size. A batch of queries is turned into work items, each a block and the few
queries that look into its list, so that a block is read once for all of them and every item is one small matrix
product of one shape. Only the largest score of each group of rows is ranked at first; the K best rows lie in the K
groups with the largest ones. int8 codes are multiplied by int8 queries; `search_inverted` scores the best rows again by
float queries, `shortlist_inverted` leaves that to whoever has the vectors.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.codes.code import Code, scores_of
from erel_jax.retrieval.codes.inverted import Inverted
from erel_jax.retrieval.hits import Hits
from erel_jax.retrieval.int8_screen import quick_products, quick_queries, quick_scores, screened_rows
from erel_jax.retrieval.inverted_work import Work, planned

GROUP, MOST_ROWS = 32, 256
MOST_QUERIES = 256
TOGETHER = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lists:
    """Stored rows list by list.

    Attributes:
        parts: what the inner code stored, [C, R, ...] in C blocks of R rows of one list each, filled with zeros.
        rows: int32[C, R], row numbers, ascending within a list; -1 where a block is filled up.
        filled: int32[C], rows of each block that are there.
        starts: int64[L + 1], first block of each list, on the host.
    """

    parts: Mapping[str, jax.Array]
    rows: jax.Array
    filled: jax.Array
    starts: np.ndarray


def lists_of(code: Inverted, stored: Mapping[str, np.ndarray], *, block: int | None = None) -> Lists:
    """Orders stored rows by list.

    Args:
        code: how they are stored.
        stored: what `code.encode` gave.
        block: rows per block, a multiple of 32; None takes about half a list's rows, at most 512.

    Raises:
        ConfigError: there are no rows, or `block` is no multiple of 32.
    """
    owner = np.asarray(stored["list"])
    if not len(owner):
        raise ConfigError("the index has no rows: add some before searching.")
    if block is None:
        half = len(owner) // (2 * len(code.centroids))
        block = min(MOST_ROWS, max(GROUP, 1 << half.bit_length()))
    if block < GROUP or block % GROUP:
        raise ConfigError(f"block is {block}, expected a multiple of {GROUP}.")
    counts = np.bincount(owner, minlength=len(code.centroids))
    starts = np.concatenate([[0], np.cumsum(-(-counts // block))])
    order = np.argsort(owner, kind="stable")
    # Where each row goes: its list's first place, and its number within the list.
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(starts[:-1] * block, counts) + within
    rows = np.full(starts[-1] * block, -1, np.int32)
    rows[places] = order
    parts = {}
    for name, values in stored.items():
        if name != "list":
            laid = np.zeros((len(rows), *values.shape[1:]), values.dtype)
            laid[places] = values[order]
            parts[name] = jnp.asarray(laid.reshape(-1, block, *values.shape[1:]))
    rows = rows.reshape(-1, block)
    filled = (rows >= 0).sum(axis=1, dtype=np.int32)
    return Lists(parts=parts, rows=jnp.asarray(rows), filled=jnp.asarray(filled), starts=starts)


def search_inverted(
    code: Inverted, lists: Lists, queries: np.ndarray, k: int, *, mask: np.ndarray | None = None
) -> Hits:
    """The K best rows of the lists nearest to each query.

    Args:
        code: how rows are stored; its `probes` and `margin` say how many lists are looked into.
        lists: from `lists_of`.
        queries: float[Q, E].
        k: hits per query.
        mask: bool[N], rows that may be found; None allows all.

    Returns:
        The hits, with estimated scores. Where the lists hold fewer than K rows (that are allowed), the places left over
        have row -1: look into more lists.

    Raises:
        ConfigError, NonFiniteError: as `search_coded`.

    Equal scores of one list stand in row order. Relation: `search_coded` with the same code looks into all lists.
    """
    return _found(code, lists, queries, k, mask, screened_rows(code.inner, k))


def shortlist_inverted(
    code: Inverted, lists: Lists, queries: np.ndarray, k: int, *, mask: np.ndarray | None = None
) -> Hits:
    """The K rows of the lists nearest to each query that are worth a second look, for `rescored`.

    Args, Raises: as `search_inverted`.

    Returns:
        As `search_inverted`, but int8 codes are ranked by their rounded products alone. About 14 rows more than are
        wanted in the end make up for the rounding.

    Relation: `search_inverted` scores such a short list again with the codes, which is of no use where the vectors
    themselves are at hand.
    """
    return _found(code, lists, queries, k, mask, 0)


def _found(code: Inverted, lists: Lists, queries: np.ndarray, k: int, mask: np.ndarray | None, again: int) -> Hits:
    """The hits, of `again` rows scored again, or with the products' own scores if it is 0."""
    queries = np.asarray(queries)
    check_vectors("queries", queries, code.width)
    check_count(k)
    allowed = None
    if mask is not None:
        filed = int(np.asarray(lists.filled).sum())
        if np.shape(mask) != (filed,):
            raise ConfigError(f"mask has shape {np.shape(mask)}, expected ({filed},): one bool per row.")
        if not np.all(mask):
            allowed = jnp.asarray(np.asarray(mask, bool)[np.maximum(np.asarray(lists.rows), 0)])
    queries = np.asarray(queries, np.float32)
    values, near = (np.asarray(side) for side in _nearest(code, queries))
    if code.margin is not None:
        near = np.where(values >= values[:, :1] - code.margin, near, -1)
    # Queries that look into the same lists are answered together.
    order = np.argsort(near[:, 0], kind="stable")
    cores = os.cpu_count() or 1 if jax.default_backend() == "cpu" else 1
    size = min(MOST_QUERIES, max(1, -(-len(queries) // cores)))
    cuts = [order[start : start + size] for start in range(0, len(order), size)]

    def plan(chosen: np.ndarray) -> tuple[np.ndarray, Work]:
        filled = np.pad(chosen, (0, size - len(chosen)), mode="edge")
        base = values[filled] if code.residual else np.zeros_like(values[filled])
        return queries[filled], planned(near[filled], base, lists.starts)

    def answered(asked: np.ndarray, work: Work) -> tuple[np.ndarray, ...]:
        found = _answered(code.inner, (lists.parts, lists.rows, lists.filled), allowed, asked, work, k, again)
        return tuple(np.asarray(side) for side in found)

    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int32)
    for chosen, (best, found) in zip(cuts, _in_turns(answered, map(plan, cuts), cores), strict=True):
        best, found = best[: len(chosen)], found[: len(chosen)]
        scores[chosen, : best.shape[1]], rows[chosen, : best.shape[1]] = best, found
    return Hits(rows=np.where(np.isfinite(scores), rows, -1), scores=scores)


def _in_turns(work: Any, given: Iterable[tuple], cores: int) -> list[Any]:
    """On a CPU several batches run at once: a loop over small products keeps one core busy, not all of them.

    What is given is made here, a little ahead: threads that plan at the same time wait for each other's interpreter.
    """
    running = []
    for one in given:
        if len(running) >= 2 * cores:
            running[-2 * cores].result()
        running.append(_threads(cores).submit(work, *one))
    return [one.result() for one in running]


@lru_cache
def _threads(cores: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores, thread_name_prefix="lists")


@jax.jit
def _nearest(code: Inverted, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores and numbers of the nearest lists, [Q, P]."""
    scores = jnp.matmul(queries, code.centroids.T, precision=jax.lax.Precision.HIGHEST)
    values, near = jax.lax.top_k(scores, code.probes)
    return values, near


@partial(jax.jit, static_argnames=("k", "again"))
def _answered(
    inner: Code, filed: tuple, allowed: jax.Array | None, queries: jax.Array, work: Work, k: int, again: int
) -> tuple[jax.Array, jax.Array]:
    work, asked = jax.tree.map(jnp.asarray, work), inner.project(jnp.asarray(queries))
    parts, rows, _ = filed
    best, slot, place = _best(*_scored(inner, filed, allowed, asked, work), jnp.asarray(work.slots), again or k)
    block = work.blocks[slot // work.lanes]
    if again:
        part = {name: values[block, place] for name, values in parts.items()}
        exact = jax.vmap(lambda one, own: scores_of(inner, one[None], own)[0])(asked, part)
        exact = exact + work.base.reshape(-1)[slot]
        best, order = jax.lax.top_k(jnp.where(jnp.isfinite(best), exact, -jnp.inf), min(k, best.shape[1]))
        block, place = (jnp.take_along_axis(side, order, axis=1) for side in (block, place))
    return best, rows[block, place]


def _scored(
    inner: Code, filed: tuple, allowed: jax.Array | None, asked: jax.Array, work: Work
) -> tuple[jax.Array, jax.Array]:
    """Scores of every item, float32[W, G, R], and the largest of each group of rows, float32[W, G, R / 32].

    Items are taken by eights: one start of a product for all of them, whose rows still fit in a core's cache.
    """
    parts, rows, filled = filed
    (width, lanes), block = work.queries.shape, rows.shape[1]
    places = jnp.arange(block, dtype=jnp.int32)[None, :]
    mine = jax.tree.map(lambda values: values[work.queries], quick_queries(inner, asked))
    eights = jax.tree.map(
        lambda values: values.reshape(-1, TOGETHER, *values.shape[1:]),
        (work.blocks, filled[work.blocks], mine, work.base),
    )

    def together(number: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        where, there, mine, base = jax.tree.map(lambda values: _at(values, number), eights)
        part = {name: values.at[where].get(mode="promise_in_bounds") for name, values in parts.items()}
        scores = quick_scores(quick_products(inner, mine, part), mine, part) + base[:, :, None]
        real = places < there[:, None]
        if allowed is not None:
            real = real & allowed[where]
        scores = jnp.where(real[:, None, :], scores, -jnp.inf)
        new = scores, scores.reshape(TOGETHER, lanes, -1, GROUP).max(axis=3)
        return jax.tree.map(lambda every, one: jax.lax.dynamic_update_index_in_dim(every, one, number, 0), found, new)

    empty = (jnp.zeros((*eights[3].shape, size), jnp.float32) for size in (block, block // GROUP))
    found = jax.lax.fori_loop(0, -(-work.count // TOGETHER), together, tuple(empty))
    return jax.tree.map(lambda values: values.reshape(width, lanes, -1), found)


def _at(values: jax.Array, number: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(values, number, keepdims=False)


def _best(
    scores: jax.Array, maxima: jax.Array, slots: jax.Array, wanted: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best rows of each query: scores, slots and places in their blocks, [Q, T]; -inf where nothing is left."""
    groups = maxima.shape[2]
    listed = jnp.where((slots >= 0)[:, :, None], maxima.reshape(-1, groups)[slots], -jnp.inf)
    listed = listed.reshape(len(slots), -1)
    # In row order, so that equal scores come out in row order.
    top, chosen = jax.lax.top_k(listed, min(wanted, listed.shape[1]))
    chosen = jnp.sort(jnp.where(jnp.isfinite(top), chosen, listed.shape[1]), axis=1)
    there = chosen < listed.shape[1]
    chosen = jnp.where(there, chosen, 0)
    slot = jnp.maximum(jnp.take_along_axis(slots, chosen // groups, axis=1), 0)
    group = chosen % groups
    inside = scores.reshape(-1, groups, GROUP)[slot, group]
    inside = jnp.where(there[:, :, None], inside, -jnp.inf).reshape(len(slots), -1)
    best, places = jax.lax.top_k(inside, min(wanted, inside.shape[1]))
    group = jnp.take_along_axis(group, places // GROUP, axis=1)
    return best, jnp.take_along_axis(slot, places // GROUP, axis=1), group * GROUP + places % GROUP
