"""The best rows of inverted lists where all rows of a list are scored, and what every search in lists is made of."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from erel_jax.retrieval.bit_screen import BitScreen
from erel_jax.retrieval.codes.code import Code, scores_of
from erel_jax.retrieval.inverted_work import Work

GROUP = 32
TOGETHER = 8
"""Items of which all rows are scored at a time: one start of a product for all, and they fit in a core's cache."""


@struct.dataclass
class Filed:
    """Stored rows list by list, in C blocks of R rows of one list each.

    Attributes:
        parts: what the inner code stored, [C, R, ...], filled up with zeros.
        rows: int32[C, R], row numbers, ascending within a list; -1 where a block is filled up.
        filled: int32[C], rows of each block that are there.
        starts: int32[L + 1], first block of each list.
        screen: what rows are picked by before they are scored, None where all are scored.
    """

    parts: Any
    rows: jax.Array
    filled: jax.Array
    starts: jax.Array
    screen: BitScreen | None


def scored(
    inner: Code, filed: Filed, allowed: jax.Array | None, asked: jax.Array, work: Work, k: int
) -> tuple[jax.Array, jax.Array]:
    """Every row of the lists is scored.

    Args:
        inner: code of the rows.
        filed: the rows.
        allowed: bool[C, R], rows that may be found; None allows all.
        asked: float32[Q, D], projected queries.
        work: which block is multiplied by which queries.
        k: rows per query, static.

    Returns:
        Scores float32[Q, K] and row numbers int32[Q, K], best first, -inf where there are fewer. K is what the lists
        hold at most, if that is less. Equal scores of one list stand in row order.
    """
    block = filed.rows.shape[1]

    def one(where: jax.Array, own: tuple[jax.Array, jax.Array]) -> jax.Array:
        queries, base = own
        part = {name: values.at[where].get(mode="promise_in_bounds") for name, values in filed.parts.items()}
        found = jax.vmap(lambda query, row: scores_of(inner, query, row))(queries, part) + base[:, :, None]
        real = jnp.arange(block, dtype=jnp.int32)[None] < filed.filled[where][:, None]
        if allowed is not None:
            real = real & allowed[where]
        return jnp.where(real[:, None, :], found, -jnp.inf)

    given = work.blocks, (asked[work.queries], work.base)
    scores = item_by_item(one, given, jnp.asarray(work.count), (work.lanes, block), TOGETHER)
    maxima = scores.reshape(-1, block // GROUP, GROUP).max(axis=2)
    best, slot, group = best_groups(maxima, jnp.asarray(work.slots), k)
    inside = jnp.where(jnp.isfinite(best)[:, :, None], scores.reshape(-1, block // GROUP, GROUP)[slot, group], -jnp.inf)
    inside = inside.reshape(len(work.slots), -1)
    values, places = jax.lax.top_k(inside, min(k, inside.shape[1]))
    where = (jnp.take_along_axis(side, places // GROUP, axis=1) for side in (work.blocks[slot // work.lanes], group))
    return values, filed.rows.reshape(-1, block // GROUP, GROUP)[*where, places % GROUP]


def item_by_item(one: Any, given: Any, count: jax.Array, shape: tuple[int, ...], together: int = 1) -> jax.Array:
    """float32[W, *shape] of `one(*given)` for the first items, `together` of them in a turn of a loop; 0 beyond them.

    Args:
        one: jittable, from T items of all that is given to float32[T, *shape].
        given: a tuple of trees of arrays [W, ...].
        count: int32, items that are there.
        shape: of what one item gives.
        together: T, which divides W.
    """
    turns = jax.tree.map(lambda values: values.reshape(-1, together, *values.shape[1:]), given)

    def turn(number: jax.Array, found: jax.Array) -> jax.Array:
        now = jax.tree.map(lambda values: jax.lax.dynamic_index_in_dim(values, number, keepdims=False), turns)
        return jax.lax.dynamic_update_index_in_dim(found, one(*now), number, 0)

    turns_there, items = -(-count // together), len(jax.tree.leaves(given)[0])
    found = jnp.zeros((items // together, together, *shape), jnp.float32)
    return jax.lax.fori_loop(0, turns_there, turn, found).reshape(-1, *shape)


def best_groups(maxima: jax.Array, slots: jax.Array, wanted: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The groups with the largest scores of each query, in the order of slots, so that equal scores stay in it.

    Args:
        maxima: float32[S, N], the largest score of each of N groups of rows of a slot.
        slots: int32[Q, M], those of a query, -1 where there are fewer.
        wanted: groups per query, static.

    Returns:
        Largest scores float32[Q, T], -inf where nothing is left; slots and numbers of the groups int32[Q, T].
    """
    groups = maxima.shape[1]
    listed = jnp.where((slots >= 0)[:, :, None], maxima[slots], -jnp.inf).reshape(len(slots), -1)
    top, chosen = jax.lax.top_k(listed, min(wanted, listed.shape[1]))
    chosen = jnp.sort(jnp.where(jnp.isfinite(top), chosen, listed.shape[1]), axis=1)
    there = chosen < listed.shape[1]
    chosen = jnp.where(there, chosen, 0)
    best = jnp.where(there, jnp.take_along_axis(listed, chosen, axis=1), -jnp.inf)
    slot = jnp.maximum(jnp.take_along_axis(slots, chosen // groups, axis=1), 0)
    return best, slot, chosen % groups
