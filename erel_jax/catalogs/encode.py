"""Encoding one shard: batches through the compiled step while the next ones are prepared, and what that took."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from erel_jax.catalogs.inputs import Batch, Preparation
from erel_jax.catalogs.models import Embedder
from erel_jax.catalogs.shards import Shard
from erel_jax.data.catalog_tables import Row

TIMED_CALLS = 3


@dataclass(kw_only=True)
class Meter:
    """What encoding took so far; one per worker.

    Attributes:
        rows: rows that got a vector.
        batches: steps taken.
        real, padded: tokens or pictures given, and computed.
        seconds: wall time of reading, preparing, encoding and writing, without compilation.
        compile_seconds: time spent compiling programs and timing them.
        own: seconds of one step by shape, the least of a few measured with nothing else of this worker running.
        own_seconds: what the steps taken would last by themselves.
    """

    rows: int = 0
    batches: int = 0
    real: int = 0
    padded: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    own: dict[tuple[int, ...], float] = field(default_factory=dict)
    own_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Items per second from reading to the written shard."""
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def own_rate(self) -> float:
        """Items per second of the encoder alone, on inputs that lie ready."""
        return self.rows / self.own_seconds if self.own_seconds else 0.0

    @property
    def waste(self) -> float:
        """Share of computed tokens or pictures that are padding."""
        return 1 - self.real / self.padded if self.padded else 0.0


def time_shape(embedder: Embedder, batch: Batch, meter: Meter) -> None:
    """Compiles the program for a batch's shape, and measures it by itself."""
    begun = time.perf_counter()
    jax.block_until_ready(embedder.encode(batch.inputs))
    times = []
    for _ in range(TIMED_CALLS):
        started = time.perf_counter()
        jax.block_until_ready(embedder.encode(batch.inputs))
        times.append(time.perf_counter() - started)
    meter.own[batch.shape] = min(times)  # what else the computer does only ever adds
    meter.compile_seconds += time.perf_counter() - begun


def encode_shard(
    preparation: Preparation,
    rows: Iterable[Row],
    meter: Meter,
    after: Callable[[int], None] = lambda count: None,
) -> Shard:
    """Embeds some rows.

    Args:
        preparation: makes batches of them.
        rows: the rows of the shard.
        meter: counts.
        after: called after every batch with the number of its rows; may raise to stop.

    Returns:
        The shard, in the order of the rows.

    Raises:
        DataError: the source cannot be read on.
    """
    embedder, preparation.left_out = preparation.embedder, []
    found: list[tuple[int, str, np.ndarray]] = []
    for batch, vectors, lengths in _encoded(embedder, preparation.batches(rows), meter):
        for place, row in enumerate(batch.rows):
            if np.isfinite(lengths[place]) and lengths[place] > 0:
                found.append((row.place.number, row.id, vectors[place]))
            else:
                strange = "zero" if lengths[place] == 0 else "not finite"
                preparation.leave_out(row, "no vector", f"the encoder's vector is {strange}")
        after(len(batch.rows))
    found.sort(key=lambda one: one[0])
    left_out = sorted(preparation.left_out, key=lambda one: one.row)
    meter.rows += len(found)
    vectors = np.stack([one[2] for one in found]) if found else np.empty((0, embedder.width), np.float32)
    return Shard(ids=[one[1] for one in found], vectors=vectors, left_out=left_out)


def _encoded(
    embedder: Embedder, batches: Iterator[Batch], meter: Meter
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
    """Every batch with its vectors; while one is computed the next one is made ready."""
    pending: tuple[Batch, Any] | None = None
    for batch in itertools.chain(batches, [None]):
        coming = None
        if batch is not None:
            if batch.shape not in meter.own:
                if pending is not None:
                    jax.block_until_ready(pending[1])
                time_shape(embedder, batch, meter)
            coming = batch, embedder.encode(batch.inputs)
            meter.batches += 1
            meter.real, meter.padded = meter.real + batch.real, meter.padded + batch.padded
            meter.own_seconds += meter.own[batch.shape]
        if pending is not None:
            vectors, lengths = pending[1]
            yield pending[0], np.asarray(vectors), np.asarray(lengths)
        pending = coming
