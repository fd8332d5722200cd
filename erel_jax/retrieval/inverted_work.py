"""Which block is multiplied by which queries: the plan of a search in inverted lists, made on the host."""

import jax
import numpy as np
from flax import struct

LANES = (2, 4, 16)
LEAST_ITEMS = 64


@struct.dataclass
class Work:
    """Work items of a batch; lengths W and M are rounded up, so that few shapes are compiled.

    Attributes:
        blocks: int32[W], the block of each item.
        queries: int32[W, G], the queries that look into it; lanes left over are never read.
        base: float32[W, G], what is added to the scores of an item.
        slots: int32[Q, M], the places W · G of a query's scores, in the order of blocks; -1 where there are fewer.
        count: int32, items that are there.
    """

    blocks: jax.Array | np.ndarray
    queries: jax.Array | np.ndarray
    base: jax.Array | np.ndarray
    slots: jax.Array | np.ndarray
    count: jax.Array | np.int32

    @property
    def lanes(self) -> int:
        """G."""
        return self.queries.shape[1]


def planned(near: np.ndarray, base: np.ndarray, starts: np.ndarray) -> Work:
    """Groups queries by the blocks that they look into.

    Args:
        near: int[Q, P], the lists of each query; -1 for fewer than P.
        base: float32[Q, P], what is added to the scores of a list.
        starts: int[L + 1], first block of each list.
    """
    lists = near.ravel()
    counts = np.where(lists >= 0, starts[lists + 1] - starts[lists], 0)
    pair = np.repeat(np.arange(len(lists)), counts)
    block = np.arange(len(pair)) + np.repeat(starts[lists] - np.cumsum(counts) + counts, counts)
    order = np.argsort(block, kind="stable")
    pair, block = pair[order], block[order]
    first = np.flatnonzero(np.diff(block, prepend=-1))
    run = np.arange(len(pair)) - np.repeat(first, np.diff(first, append=len(pair)))
    most = _lanes(len(pair), len(first))
    item, lane = np.cumsum(run % most == 0) - 1, run % most
    items = int(item[-1]) + 1 if len(item) else 0
    width = rounded_up(max(items, LEAST_ITEMS))
    blocks, queries = np.zeros(width, np.int32), np.zeros((width, most), np.int32)
    added = np.zeros((width, most), np.float32)
    query = pair // near.shape[1]
    blocks[item], queries[item, lane], added[item, lane] = block, query, base.ravel()[pair]
    held = counts.reshape(near.shape).sum(axis=1)
    slots = np.full((len(near), max(4, 1 << max(int(held.max()) - 1, 0).bit_length())), -1, np.int32)
    # Query by query, each in the order of blocks.
    slots[np.arange(slots.shape[1]) < held[:, None]] = (item * most + lane)[np.argsort(query, kind="stable")]
    return Work(blocks=blocks, queries=queries, base=added, slots=slots, count=np.int32(items))


def rounded_up(items: int) -> int:
    """To 2ⁿ or 3 · 2ⁿ⁻¹."""
    power = 1 << (items - 1).bit_length()
    return power - power // 4 if items <= power - power // 4 else power


def _lanes(pairs: int, blocks: int) -> int:
    """Queries per item: about as many as look into a block."""
    return next((most for most in LANES if pairs <= 2 * most * max(blocks, 1)), LANES[-1])
