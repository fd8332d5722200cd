"""Search in inverted lists: only the rows filed under the centroids nearest to a query are looked at.

Rows lie list by list in blocks of fixed size. How a batch of queries is answered depends on the code inside: int8 codes
are screened by three bits per dimension, and the best are scored by float queries (`inverted_screened`); rows of other
codes, or of few dimensions, are all scored (`inverted_rows`), each block by all queries that look into its list
(`inverted_work`).
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
from erel_jax.retrieval.bit_screen import LEAST_WIDTH, bit_screen
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.codes.int8 import Int8PerVector
from erel_jax.retrieval.codes.inverted import Inverted
from erel_jax.retrieval.codes.reduced import Reduced
from erel_jax.retrieval.hits import Hits
from erel_jax.retrieval.inverted_rows import GROUP, Filed, scored
from erel_jax.retrieval.inverted_screened import asked_of, nearest, screened
from erel_jax.retrieval.inverted_work import LEAST_ITEMS, Work, planned, rounded_up

MOST_ROWS = 256
MOST_QUERIES = 256


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lists:
    """Stored rows list by list.

    Attributes:
        filed: the rows in blocks of one list each, on the device.
        starts: int64[L + 1], first block of each list, on the host.
    """

    filed: Filed
    starts: np.ndarray


def lists_of(code: Inverted, stored: Mapping[str, np.ndarray], *, block: int | None = None) -> Lists:
    """Orders stored rows by list.

    Args:
        code: how they are stored.
        stored: what `code.encode` gave.
        block: rows per block, a multiple of 32; None takes about half a list's rows, at most 256.

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
    filed = Filed(
        parts=parts,
        rows=jnp.asarray(rows),
        filled=jnp.asarray((rows >= 0).sum(axis=1, dtype=np.int32)),
        starts=jnp.asarray(starts, jnp.int32),
        screen=bit_screen(code.inner, parts) if _of_wide_int8(code.inner) else None,
    )
    return Lists(filed=filed, starts=starts)


def _of_wide_int8(code: Code) -> bool:
    code = code.inner if isinstance(code, Reduced) else code
    return isinstance(code, Int8PerVector) and code.width >= LEAST_WIDTH


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

    Equal scores of one list stand in row order. int8 codes of 64 dimensions or more are screened: of the K best rows by
    the codes' own scores, an estimate may miss one in a few hundred.

    Relation: `search_coded` with the same code looks into all lists. Where the vectors are at hand, `rescored` takes
    the best of a few rows more.
    """
    queries = np.asarray(queries)
    check_vectors("queries", queries, code.width)
    check_count(k)
    allowed = _allowed(lists.filed, mask)
    answered = _scored if lists.filed.screen is None else _screened
    scores, rows = answered(code, lists, np.asarray(queries, np.float32), k, allowed)
    missing = ((0, 0), (0, k - scores.shape[1]))
    if missing[1][1]:
        scores, rows = np.pad(scores, missing, constant_values=-np.inf), np.pad(rows, missing)
    return Hits(rows=np.where(np.isfinite(scores), rows, -1), scores=scores)


def _screened(
    code: Inverted, lists: Lists, queries: np.ndarray, k: int, allowed: jax.Array | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [Q, K] of the hits, or fewer than K where the lists never hold so many."""
    size, parts = _parts(len(queries))
    more = np.broadcast_to(queries[-1], (size * parts - len(queries), queries.shape[1]))
    asked, held = asked_of(code, lists.filed, np.concatenate([queries, more]))
    held = np.asarray(held).reshape(parts, size)
    items = rounded_up(max(int(held.sum(axis=1).max()), LEAST_ITEMS))
    most = max(4, 1 << max(int(held.max()) - 1, 0).bit_length())

    def answered(part: int) -> tuple[jax.Array, jax.Array]:
        options = {"size": size, "items": items, "most": most, "k": k}
        return jax.block_until_ready(screened(code.inner, lists.filed, allowed, asked, part, **options))

    best, found = zip(*_in_turns(answered, zip(range(parts))), strict=True)
    return np.concatenate(best)[: len(queries)], np.concatenate(found)[: len(queries)]


def _scored(
    code: Inverted, lists: Lists, queries: np.ndarray, k: int, allowed: jax.Array | None
) -> tuple[np.ndarray, np.ndarray]:
    """As `_screened`."""
    values, near = (np.asarray(side) for side in _nearest(code, queries))
    size, parts = _parts(len(queries))
    # Queries that look into the same lists are answered together.
    order = np.argsort(near[:, 0], kind="stable")
    filled = np.concatenate([order, np.repeat(order[-1:], size * parts - len(order))]).reshape(parts, size)

    def plan(chosen: np.ndarray) -> tuple[np.ndarray, Work]:
        base = values[chosen] if code.residual else np.zeros_like(values[chosen])
        return queries[chosen], planned(near[chosen], base, lists.starts)

    def answered(asked: np.ndarray, work: Work) -> tuple[jax.Array, jax.Array]:
        return jax.block_until_ready(_answered(code.inner, lists.filed, allowed, asked, work, k))

    best, found = zip(*_in_turns(answered, map(plan, filled)), strict=True)
    # The first of equal queries: those that fill up the last part come after it.
    turn = np.argsort(order, kind="stable")
    return np.concatenate(best)[turn], np.concatenate(found)[turn]


def _parts(queries: int) -> tuple[int, int]:
    """Queries that are answered at a time, and how often: all cores have some at once."""
    size = min(MOST_QUERIES, max(1, -(-queries // _cores())))
    return size, -(-queries // size)


def _cores() -> int:
    return os.cpu_count() or 1 if jax.default_backend() == "cpu" else 1


def _allowed(filed: Filed, mask: np.ndarray | None) -> jax.Array | None:
    """bool[C, R] of a mask over rows; None where all may be found."""
    if mask is None:
        return None
    rows = np.asarray(filed.rows)
    count = int((rows >= 0).sum())
    if np.shape(mask) != (count,):
        raise ConfigError(f"mask has shape {np.shape(mask)}, expected ({count},): one bool per row.")
    return None if np.all(mask) else jnp.asarray(np.asarray(mask, bool)[np.maximum(rows, 0)])


def _in_turns(work: Any, given: Iterable[tuple]) -> list[Any]:
    """On a CPU several parts run at once: a loop over small products keeps one core busy, not all of them.

    What is given is made here, a little ahead: threads that plan at the same time wait for each other's interpreter.
    The last part is worked on here too, so that a single one wakes no thread.
    """
    running, cores, waiting = [], _cores(), None
    for one in given:
        if waiting is not None:
            running.append(_threads(cores).submit(work, *waiting))
        if len(running) >= 2 * cores:
            running[-2 * cores].result()
        waiting = one
    last = [] if waiting is None else [work(*waiting)]
    return [one.result() for one in running] + last


@lru_cache
def _threads(cores: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores, thread_name_prefix="lists")


_nearest = jax.jit(nearest)


@partial(jax.jit, static_argnames=("k",))
def _answered(
    inner: Code, filed: Filed, allowed: jax.Array | None, queries: jax.Array, work: Work, k: int
) -> tuple[jax.Array, jax.Array]:
    work, asked = jax.tree.map(jnp.asarray, work), inner.project(jnp.asarray(queries))
    return scored(inner, filed, allowed, asked, work, k)
