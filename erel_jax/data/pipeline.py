"""Batches of row indices for training and evaluation, with exact resume.

Training rows come through Grain: shuffled anew in every epoch, in batches of one size, forever. Only indices travel
through the pipeline; `gather_pairs` (or an indexing of one's own) fetches what they stand for. `BatchStream.state`
carries, besides Grain's position, a fingerprint of everything that decides the sequence, because Grain itself accepts
the state of any other pipeline in silence. `eval_batches` covers every row exactly once, in batches of one shape.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import grain
import numpy as np

from erel_jax.errors import ConfigError

if TYPE_CHECKING:
    from erel_jax.data.retrieval import RetrievalSplit

FORMAT = 1


class BatchStream:
    """Endless batches of row indices; an iterator.

    Every epoch visits the rows in a new order and leaves out the last rows that do not fill a batch, so a batch never
    crosses epochs and never holds a row twice. With `groups`, an epoch visits every *group* once and draws one of its
    rows at random: each text occurs at most once in a batch, with another of its pictures in the next epoch.

    Args:
        size: Number of rows.
        batch: B, rows per batch.
        seed: Seed of the order, at least 0.
        data_fingerprint: Identity of the data, such as `RetrievalData.fingerprint`.
        groups: int[size], group of each row (`RetrievalSplit.text_of_image`), or None to visit every row.

    Raises:
        ConfigError: A number is out of range, `groups` has another length, or there are fewer rows (or groups) than
            `batch`.
    """

    def __init__(
        self, size: int, *, batch: int, seed: int, data_fingerprint: str, groups: np.ndarray | None = None
    ) -> None:
        if batch < 1 or seed < 0:
            raise ConfigError(f"batch is {batch} and seed is {seed}, expected at least 1 and at least 0.")
        if groups is not None and groups.shape != (size,):
            raise ConfigError(f"groups has shape {groups.shape}, expected ({size},): one group per row.")
        order = _EpochOrder(size, batch, seed, groups)
        units = order.units
        if units < batch:
            what = "rows" if groups is None else "distinct texts"
            raise ConfigError(f"batch is {batch}, but there are {units} {what}. Choose a batch of at most {units}.")
        self.batch = batch
        self.steps_per_epoch = units // batch
        self.fingerprint: dict[str, Any] = {
            "format": FORMAT,
            "size": size,
            "batch": batch,
            "seed": seed,
            "groups": None if groups is None else units,
            "data": data_fingerprint,
        }
        steps = grain.MapDataset.range(self.steps_per_epoch).repeat().map_with_index(order.rows_of_step)
        # Indices need no reading ahead; without threads nothing outlives the process.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._rows = iter(steps.to_iter_dataset(options))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> np.ndarray:
        """Return the next batch, int32[B]."""
        return next(self._rows)

    def state(self) -> dict[str, Any]:
        """Return the position as JSON values: `fingerprint`, and `position` as Grain reports it."""
        return {"fingerprint": dict(self.fingerprint), "position": dict(self._rows.get_state())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position; the next batch is the one that followed it.

        Args:
            state: From `state`, of a stream with the same arguments.

        Raises:
            ConfigError: The state belongs to another pipeline (shows both fingerprints), or is not a state.
        """
        try:
            saved, position = dict(state["fingerprint"]), dict(state["position"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"Not a saved input state ({error!r}). Expected fingerprint and position.") from error
        if saved != self.fingerprint:
            differing = [name for name in self.fingerprint if saved.get(name) != self.fingerprint[name]]
            raise ConfigError(
                f"The saved input state belongs to another pipeline; different: {', '.join(differing) or 'fields'}. "
                f"Saved: {saved}. This run: {self.fingerprint}. Use the same data, seed and batch, or start a new run."
            )
        self._rows.set_state(position)


class _EpochOrder:
    """The rows of any step, from the seed and the number of the step alone.

    One permutation is drawn per epoch. Grain's own `shuffle` computes each index by itself, which costs 8 to 30
    microseconds per row and milliseconds in data sets of less than a hundred rows; here a batch is a slice.
    """

    def __init__(self, size: int, batch: int, seed: int, groups: np.ndarray | None) -> None:
        self.batch = batch
        self.seed = seed
        self.members = np.arange(size) if groups is None else np.argsort(groups, kind="stable")
        self.starts, self.counts = np.arange(size), np.ones(size, np.int64)
        if groups is not None:
            _, self.starts, self.counts = np.unique(groups[self.members], return_index=True, return_counts=True)
        self.units = len(self.starts)
        self._epoch = -1
        self._rows = np.empty(0, np.int32)

    def rows_of_step(self, step: int, step_in_epoch: int) -> np.ndarray:
        epoch = step // (self.units // self.batch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            chosen = generator.permutation(self.units)
            drawn = generator.integers(0, self.counts[chosen])
            self._rows = self.members[self.starts[chosen] + drawn].astype(np.int32)
            self._epoch = epoch
        start = step_in_epoch * self.batch
        return self._rows[start : start + self.batch].copy()


class GatheredBatches:
    """A `BatchStream` together with what its rows stand for; an iterator with the state of its stream.

    Args:
        stream: Draws the rows.
        gather: From rows int32[B] to arrays by name, on the host.
        ids: Id of every row, for reports about single examples.
    """

    def __init__(
        self, stream: BatchStream, gather: Callable[[np.ndarray], Mapping[str, np.ndarray]], ids: list[str]
    ) -> None:
        self.stream = stream
        self._gather = gather
        self._ids = ids

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Mapping[str, np.ndarray], list[str]]:
        """Return the arrays of the next batch and the ids of its examples."""
        rows = next(self.stream)
        return self._gather(rows), [self._ids[row] for row in rows.tolist()]

    def state(self) -> dict[str, Any]:
        """Return the stream's state as JSON values."""
        return self.stream.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position; raises `ConfigError` like `BatchStream.restore`."""
        self.stream.restore(state)


def eval_batches(size: int, batch: int, *, shard: int = 0, shards: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cover every row exactly once in batches of one shape.

    Args:
        size: Number of rows, N.
        batch: B, rows per batch.
        shard: Which of `shards` interleaved parts to cover (one per host), from 0.
        shards: Number of parts. All parts yield the same number of batches, as collective steps need.

    Yields:
        Row indices int32[B] and a mask bool[B]; where the mask is False the row is filling (row 0) to be ignored.

    Raises:
        ConfigError: A number is out of range.
    """
    if size < 1 or batch < 1 or not 0 <= shard < shards:
        raise ConfigError(
            f"Got {size} rows, batch {batch}, shard {shard} of {shards}; expected at least one row and one per batch, "
            "and a shard in 0..shards-1."
        )
    return _eval_batches(size, batch, shard, shards)


def _eval_batches(size: int, batch: int, shard: int, shards: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    longest = -(-size // shards)
    for start in range(0, longest, batch):
        rows = (np.arange(start, start + batch) * shards + shard).astype(np.int32)
        mask = (rows < size) & (np.arange(start, start + batch) < longest)
        yield np.where(mask, rows, 0).astype(np.int32), mask


def gather_pairs(split: "RetrievalSplit", rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fetch pictures and text rows of a batch on the host.

    Args:
        split: A split of `load_retrieval`.
        rows: int32[B], rows of the split.

    Returns:
        Pictures uint8[B, H, W, 3] and int32[B], the row of `split.texts` of each. Equal text rows mark duplicates,
        which a contrastive loss must not treat as negatives of each other.

    Raises:
        ConfigError: A row is out of range.
    """
    if rows.size and (rows.min() < 0 or rows.max() >= len(split)):
        raise ConfigError(f"Rows {rows.min()}..{rows.max()} of a split with {len(split)} pictures; check the pipeline.")
    return np.ascontiguousarray(split.images[rows]), split.text_of_image[rows]
