"""The best rows of inverted lists where a screen picks the rows that are scored (`bit_screen`).

One query looks into a list at a time: counts of bits take longer than reading them, so that nothing is won by reading
a block for several queries at once, and the plan of a batch is short enough to be made on the device.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from erel_jax.retrieval.bit_screen import FOLD, AskedBits, asked_bits, estimates, folded
from erel_jax.retrieval.codes.code import Code, scores_of
from erel_jax.retrieval.codes.inverted import Inverted
from erel_jax.retrieval.inverted_rows import Filed, best_groups, item_by_item


@struct.dataclass
class Asked:
    """Queries and the P lists that they look into.

    Attributes:
        queries: float32[Q, D], projected.
        bits: the same for the screen.
        near: int32[Q, P], numbers of the lists; -1 for fewer than P.
        base: float32[Q, P], what is added to the scores of a list.
    """

    queries: jax.Array
    bits: AskedBits
    near: jax.Array
    base: jax.Array


def nearest(code: Inverted, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores float32[Q, P] and numbers int32[Q, P] of the lists to look into, -1 beyond the margin; jittable."""
    scores = jnp.matmul(queries, code.centroids.T, precision=jax.lax.Precision.HIGHEST)
    # Without the barrier XLA's CPU backend sorts all scores as soon as other operations use the best of them.
    values, near = jax.lax.optimization_barrier(jax.lax.top_k(scores, code.probes))
    if code.margin is not None:
        near = jnp.where(values >= values[:, :1] - code.margin, near, -1)
    return values, near


@jax.jit
def asked_of(code: Inverted, filed: Filed, queries: jax.Array) -> tuple[Asked, jax.Array]:
    """Queries float32[Q, E], and the blocks that each looks into, int32[Q]."""
    values, near = nearest(code, queries)
    projected = code.inner.project(queries)
    assert filed.screen is not None
    base = values if code.residual else jnp.zeros_like(values)
    asked = Asked(queries=projected, bits=asked_bits(filed.screen, projected), near=near, base=base)
    return asked, jnp.sum(_blocks_of(filed, near), axis=1)


@partial(jax.jit, static_argnames=("size", "items", "most", "k"))
def screened(
    inner: Code,
    filed: Filed,
    allowed: jax.Array | None,
    asked: Asked,
    part: int,
    *,
    size: int,
    items: int,
    most: int,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """The best rows of one part of the queries; of some K an estimate may miss one.

    Args:
        inner: code of the rows.
        filed: the rows, with a screen.
        allowed: bool[C, R], rows that may be found; None allows all.
        asked: all queries, a multiple of `size`.
        part: which `size` of them are answered.
        size: queries of a part, static.
        items: blocks that these look into altogether, or more; static.
        most: blocks that one of them looks into, or more; static.
        k: rows per query, static.

    Returns:
        Scores float32[size, K] and row numbers int32[size, K], best first, -inf where there are fewer. Equal scores of
        one list stand in row order.
    """
    asked = jax.tree.map(lambda values: values.reshape(-1, size, *values.shape[1:])[part], asked)
    blocks, pairs, slots, count = _planned(filed, asked.near, items, most)
    base = asked.base.reshape(-1)[pairs]
    maxima = _group_maxima(filed, allowed, asked.bits, (blocks, pairs // asked.near.shape[1], base), count)
    best, item, group = best_groups(maxima, slots, looked_at(k))
    where = blocks[item], group

    def again(query: tuple) -> jax.Array:
        own, *where = query
        part = {name: _fours(values)[*where].reshape(-1, *values.shape[2:]) for name, values in filed.parts.items()}
        return scores_of(inner, own[None], part)[0]

    # Query by query: the rows of one fit in a core's cache.
    scores = jax.lax.map(again, (asked.queries, *where)).reshape(*group.shape, FOLD) + base[item][:, :, None]
    rows = _fours(filed.rows)[*where]
    real = jnp.isfinite(best)[:, :, None] & (rows >= 0)
    if allowed is not None:
        real = real & _fours(allowed)[*where]
    scores = jnp.where(real, scores, -jnp.inf).reshape(size, -1)
    values, places = jax.lax.top_k(scores, min(k, scores.shape[1]))
    return values, jnp.take_along_axis(rows.reshape(size, -1), places, axis=1)


def looked_at(k: int) -> int:
    """Groups of four rows that are scored for the best K."""
    return 2 * k + 16


def _planned(filed: Filed, near: jax.Array, items: int, most: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Work items, query by query: block and pair of query and list int32[W], items of each query int32[Q, M], count."""
    counts = _blocks_of(filed, near).reshape(-1)
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    numbers = jnp.arange(items, dtype=jnp.int32)
    pairs = jnp.repeat(jnp.arange(len(counts), dtype=jnp.int32), counts, total_repeat_length=items)
    blocks = filed.starts[near.reshape(-1)[pairs]] + numbers - (ends - counts)[pairs]
    there = numbers < ends[-1]
    blocks, pairs = jnp.where(there, blocks, 0), jnp.where(there, pairs, 0)
    held = counts.reshape(near.shape).sum(axis=1)
    first = ends.reshape(near.shape)[:, -1] - held
    turns = jnp.arange(most, dtype=jnp.int32)[None, :]
    return blocks, pairs, jnp.where(turns < held[:, None], first[:, None] + turns, -1), ends[-1]


def _blocks_of(filed: Filed, near: jax.Array) -> jax.Array:
    """int32[Q, P], blocks of lists; 0 for none."""
    return jnp.where(near >= 0, filed.starts[near + 1] - filed.starts[near], 0)


def _group_maxima(
    filed: Filed, allowed: jax.Array | None, bits: AskedBits, work: tuple[jax.Array, ...], count: jax.Array
) -> jax.Array:
    """float32[W, R / 4], the largest estimate of each four rows of an item's block."""
    blocks, queries, base = work
    block = filed.rows.shape[1]
    assert filed.screen is not None
    screen, places = filed.screen.rows, folded(jnp.arange(block, dtype=jnp.int32)[None])

    def one(where: jax.Array, mine: AskedBits, base: jax.Array) -> jax.Array:
        rows = jax.tree.map(lambda values: values.at[where].get(mode="promise_in_bounds"), screen)
        real = places < filed.filled[where][:, None]
        if allowed is not None:
            real = real & folded(allowed[where])
        return jnp.where(real, estimates(rows, mine) + base[:, None], -jnp.inf)

    mine = jax.tree.map(lambda values: values[queries], bits)
    found = item_by_item(one, (blocks, mine, base), count, (block,))
    # In one go afterwards: within the loop it would be fused with the counts, element by element.
    return found.reshape(-1, FOLD, block // FOLD).max(axis=1)


def _fours(values: jax.Array) -> jax.Array:
    """[C, R, ...] → [C, R / 4, 4, ...]."""
    return values.reshape(len(values), -1, FOLD, *values.shape[2:])
