"""Rows of stored states for each batch, where they do not simply lie on the training device.

Streamed rows are read from the mapped files by a thread that works ahead of the training loop, only the distinct items
of a batch. Sharded rows lie spread over all devices and are gathered by one compiled program. Either way a batch gets
what indexing resident states would have given it, bit for bit.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from erel_jax.data.state_store import StateStore
from erel_jax.sharding import make_mesh

AHEAD = 4


class StreamedStates:
    """Rows read from disk, prepared by a thread.

    Args:
        stores: opened stores by modality.
        ahead: batches that may be prepared or waiting; older ones that nobody took are dropped.
    """

    def __init__(self, stores: Mapping[str, StateStore], ahead: int = AHEAD) -> None:
        self.stores, self.ahead = dict(stores), ahead
        self.hits = 0
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="states")
        self._waiting: dict[bytes, Future[Any]] = {}

    def prefetch(self, rows: np.ndarray) -> None:
        """Starts reading rows that `__call__` will soon be asked for."""
        key = _key(rows)
        if key not in self._waiting:
            self._waiting[key] = self._reader.submit(self._read, np.array(rows))
        while len(self._waiting) > self.ahead:
            self._waiting.pop(next(iter(self._waiting))).cancel()

    def __call__(self, rows: np.ndarray) -> dict[str, Any]:
        """Rows of every modality on the host: bfloat16[B, …], or int8 values with scales."""
        future = self._waiting.pop(_key(rows), None)
        if future is None:
            return self._read(rows)
        self.hits += 1
        return future.result()

    def _read(self, rows: np.ndarray) -> dict[str, Any]:
        # Sorted reads touch each page of the file once.
        order = np.argsort(rows, kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return {name: jax.tree.map(lambda part: part[back], s.read(rows[order])) for name, s in self.stores.items()}


class ShardedStates:
    """Rows spread evenly over devices, gathered by one program.

    Args:
        stores: opened stores by modality.
        devices: number of devices, all by default.

    Sharding: values[N_data, K, D]; a gathered batch [B, K, D] lies on the first device.
    """

    def __init__(self, stores: Mapping[str, StateStore], devices: int | None = None) -> None:
        count = devices or jax.device_count()
        mesh = make_mesh(count, 1)
        self.states = {name: _spread(store, mesh, count) for name, store in stores.items()}
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._gather = jax.jit(lambda states, rows: jax.tree.map(lambda a: a[rows], states), out_shardings=everywhere)

    def prefetch(self, rows: np.ndarray) -> None:
        """Nothing to do: the rows are on the devices already."""

    def __call__(self, rows: np.ndarray) -> dict[str, Any]:
        """Rows of every modality on the first device."""
        gathered = self._gather(self.states, np.asarray(rows, np.int32))
        return jax.tree.map(lambda array: array.addressable_data(0), gathered)


def resident_states(stores: Mapping[str, StateStore]) -> dict[str, Any]:
    """All rows of all modalities on the device, to be indexed inside a compiled step."""
    return {name: jax.device_put(store.read(slice(None))) for name, store in stores.items()}


def _spread(store: StateStore, mesh: Any, count: int) -> Any:
    rows = -(-store.layout.rows // count) * count

    def place(mapped: np.ndarray) -> jax.Array:
        sharding = NamedSharding(mesh, PartitionSpec("data"))

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            # Rows are filled up by repeating the last one; nobody asks for them.
            return np.ascontiguousarray(mapped[np.minimum(np.arange(start, stop), len(mapped) - 1)])

        return jax.make_array_from_callback((rows, *mapped.shape[1:]), sharding, part)

    values = place(store.values)
    return values if store.scales is None else {"values": values, "scales": place(store.scales)}


def _key(rows: np.ndarray) -> bytes:
    return np.ascontiguousarray(rows, np.int64).tobytes()
