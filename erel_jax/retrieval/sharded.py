"""Search over rows that are spread over devices: each finds its own best, and those are merged.

    corpus = shard_rows(code, stored, make_mesh(8))     # stored[N_data, …]
    hits = search_sharded(corpus, queries, 10)

Every device holds a run of neighboring rows and finds its K best by `coded.merged`; the K best of all devices are then
gathered in the order of the devices, which is the order of the rows, so that ties come out as on one device.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.coded import merged
from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.hits import Hits


@struct.dataclass
class ShardedRows:
    """Stored rows on the devices of a mesh axis. Made by `shard_rows`.

    Attributes:
        code: how rows are stored; on every device.
        stored: arrays of whole blocks of rows, split over the axis: `stored[N_axis, …]`.
        rows: N, without the rows that fill the last blocks.
        block: rows that a device scores at a time.
        mesh: the devices.
        axis: the axis that rows are split over.
    """

    code: Any
    stored: Mapping[str, jax.Array]
    rows: int = struct.field(pytree_node=False)
    block: int = struct.field(pytree_node=False)
    mesh: jax.sharding.Mesh = struct.field(pytree_node=False)
    axis: str = struct.field(pytree_node=False)


def shard_rows(
    code: Code, stored: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh, *, axis: str = "data", block: int = 16384
) -> ShardedRows:
    """Puts stored rows on devices, each only its own; rows mapped from disk are read as far as this host needs them.

    Args:
        code: how rows are stored.
        stored: what `code.encode` gave, N rows.
        mesh: the devices.
        axis: mesh axis to split rows over.
        block: rows that a device scores at a time.

    Raises:
        ConfigError: the mesh has no such axis, the block is below 1, or there are no rows.
    """
    rows = len(next(iter(stored.values())))
    if axis not in mesh.shape or block < 1 or not rows:
        raise ConfigError(
            f"got axis {axis!r} of a mesh with {dict(mesh.shape)}, block {block} and {rows} rows; expected an axis of "
            "the mesh, and 1 or more."
        )
    share = -(-rows // mesh.shape[axis])
    block = min(block, share)
    total = mesh.shape[axis] * -(-share // block) * block
    split = jax.sharding.NamedSharding(mesh, jax.P(axis))

    def place(values: np.ndarray) -> jax.Array:
        dtype = np.float32 if np.issubdtype(values.dtype, np.floating) else values.dtype

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(total)
            found = np.zeros((stop - start, *values.shape[1:]), dtype)
            there = values[start : min(stop, rows)]
            found[: len(there)] = there
            return found

        return jax.make_array_from_callback((total, *values.shape[1:]), split, part)

    placed = {name: place(values) for name, values in stored.items()}
    return ShardedRows(code=code, stored=placed, rows=rows, block=block, mesh=mesh, axis=axis)


def search_sharded(corpus: ShardedRows, queries: np.ndarray, k: int, *, mask: np.ndarray | None = None) -> Hits:
    """The K stored rows of largest estimated inner product with each query, as `search_coded` finds them.

    Args:
        corpus: from `shard_rows`.
        queries: float[Q, E]; every device scores all of them against its rows.
        k: hits per query.
        mask: bool[N], rows that may be found; None allows all.

    Returns:
        The hits, ties in row order; with k above the number of rows allowed, the places left over have row -1.

    Raises:
        ConfigError, NonFiniteError: as `search_coded`.

    Between devices go K scores and rows per query and device, nothing else.
    """
    queries = np.asarray(queries)
    check_vectors("queries", queries, corpus.code.width)
    check_count(k)
    if mask is not None and np.shape(mask) != (corpus.rows,):
        raise ConfigError(f"mask has shape {np.shape(mask)}, expected ({corpus.rows},): one bool per row.")
    allowed = np.zeros(len(next(iter(corpus.stored.values()))), bool)
    allowed[: corpus.rows] = True if mask is None else mask
    split = jax.sharding.NamedSharding(corpus.mesh, jax.P(corpus.axis))

    def own(index: Any) -> np.ndarray:
        return allowed[index]

    there = jax.make_array_from_callback(allowed.shape, split, own)
    scores, rows = (np.asarray(side) for side in _search(corpus, there, np.asarray(queries, np.float32), k))
    return Hits(rows=np.where(np.isfinite(scores), rows, -1).astype(np.int32), scores=scores)


@partial(jax.jit, static_argnames=("k",))
def _search(corpus: ShardedRows, allowed: jax.Array, queries: jax.Array, k: int):
    axis, block = corpus.axis, corpus.block

    def shard(code, stored, allowed, queries):
        asked, own = code.project(queries), allowed.shape[0]
        nothing = jnp.full((len(queries), k), -jnp.inf, jnp.float32), jnp.full((len(queries), k), -1, jnp.int32)
        first = jax.lax.axis_index(axis).astype(jnp.int32) * own

        def step(best, number):
            part = {name: _rows(values, number, block) for name, values in stored.items()}
            there = _rows(allowed, number, block)
            return merged(best, code, asked, part, there, first + number * block, k), None

        best, _ = jax.lax.scan(step, nothing, jnp.arange(own // block, dtype=jnp.int32))
        scores, rows = (jnp.moveaxis(jax.lax.all_gather(side, axis), 0, 1).reshape(len(queries), -1) for side in best)
        values, places = jax.lax.top_k(scores, k)
        return values, jnp.take_along_axis(rows, places, axis=1)

    specs = (jax.P(), jax.P(axis), jax.P(axis), jax.P())
    # Gathered values are equal on every device, which the check of varying axes cannot know.
    split = jax.shard_map(shard, mesh=corpus.mesh, in_specs=specs, out_specs=jax.P(), check_vma=False)
    return split(corpus.code, dict(corpus.stored), allowed, queries)


def _rows(values: jax.Array, number: jax.Array, block: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(values, number * block, block, axis=0)
