"""Batches of training windows in which every distinct item appears once, with shapes that never change.

A batch of B windows with L + 1 slots holds B(L + 1) item slots, but more than half are padding and many repeat. What
an encoder has to compute is the distinct items; what the loss needs is the positions that have a next item. This
module works both out on the host, pads them to one capacity for the whole run, and so lets a compiled step embed each
item once and skip padded positions, without ever recompiling. The capacity is measured on the very batches that will
be drawn (their order follows from the seed), so nothing is guessed and nothing overflows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import flax.struct
import jax
import numpy as np

from erel_jax.errors import ConfigError

# Bounds the memory of the capacity measurement on data sets with millions of users.
_SLOTS_AT_ONCE = 2**23


@flax.struct.dataclass
class SequenceBatch:
    """One batch as arrays, or many batches with one more leading axis; a pytree that crosses `jit`.

    Attributes:
        unique_items: int32[C], numbers of the batch's distinct items; entry 0 and unused entries are 0 (padding).
        multiplicity: float32[C], how many slots of the batch hold each item; 0 for padding.
        windows: int32[B, L + 1], for each slot its position in `unique_items`; 0 for padding.
        rows: int32[R], real positions as indices into the flattened `[B * L]` user states; 0 for unused rows.
        row_user: int32[R], window of each row.
        row_input: int32[R], position in `unique_items` of each row's own item; 0 for unused rows.
        row_positive: int32[R], position in `unique_items` of each row's next item; 0 marks an unused row.
        slot_row: int32[B, L], row of each input slot; -1 for padding.
    """

    unique_items: jax.Array
    multiplicity: jax.Array
    windows: jax.Array
    rows: jax.Array
    row_user: jax.Array
    row_input: jax.Array
    row_positive: jax.Array
    slot_row: jax.Array


@dataclass(frozen=True, kw_only=True)
class BatchCapacity:
    """Static sizes of a batch: `unique` columns C (padding column included) and `rows` rows R."""

    unique: int
    rows: int


def worst_capacity(batch_size: int, max_length: int, *, multiple: int = 64) -> BatchCapacity:
    """The sizes no batch of `batch_size` windows with `max_length` inputs can exceed, rounded up to `multiple`."""
    return BatchCapacity(
        unique=_round_up(batch_size * (max_length + 1) + 1, multiple), rows=_round_up(batch_size * max_length, multiple)
    )


def build_batches(windows: np.ndarray, order: np.ndarray, capacity: BatchCapacity) -> SequenceBatch:
    """Build many batches at once.

    Args:
        windows: int32[U, L + 1], all training windows, left padded with 0.
        order: int[S, B], the users of each of S batches; -1 stands for an empty window.
        capacity: Sizes to pad to.

    Returns:
        Host arrays with leading axis S; `batch_at` takes one batch out.

    Raises:
        ConfigError: A batch needs more than `capacity`; the message says how much.
    """
    steps, batch = order.shape
    slots = _gather_windows(windows, order)
    unique, inverse, counts = _unique_per_step(slots.reshape(steps, -1))
    length = windows.shape[1] - 1
    real = (slots[:, :, :-1] != 0).reshape(steps, batch * length)
    needed = BatchCapacity(unique=unique.shape[1], rows=int(real.sum(axis=1).max(initial=0)))
    if needed.unique > capacity.unique or needed.rows > capacity.rows:
        raise ConfigError(
            f"a batch needs {needed.unique} distinct items and {needed.rows} rows, the capacity is {capacity.unique} "
            f"and {capacity.rows}. Measure the capacity on the same windows and batch size, or use worst_capacity."
        )
    columns = inverse.reshape(slots.shape)
    step, position = np.nonzero(real)
    place = np.arange(len(step)) - np.concatenate([[0], np.cumsum(real.sum(axis=1))])[step]
    rows, row_user, row_input, row_positive = (np.zeros((steps, capacity.rows), np.int32) for _ in range(4))
    slot_row = np.full((steps, batch * length), -1, np.int32)
    rows[step, place] = position
    row_user[step, place] = position // length
    row_input[step, place] = columns[:, :, :-1].reshape(steps, -1)[step, position]
    row_positive[step, place] = columns[:, :, 1:].reshape(steps, -1)[step, position]
    slot_row[step, position] = place
    widen = ((0, 0), (0, capacity.unique - unique.shape[1]))
    return SequenceBatch(  # host arrays; jit turns them into device arrays
        unique_items=np.pad(unique, widen),  # type: ignore[arg-type]
        multiplicity=np.pad(counts, widen).astype(np.float32),  # type: ignore[arg-type]
        windows=columns.astype(np.int32),  # type: ignore[arg-type]
        rows=rows,  # type: ignore[arg-type]
        row_user=row_user,  # type: ignore[arg-type]
        row_input=row_input,  # type: ignore[arg-type]
        row_positive=row_positive,  # type: ignore[arg-type]
        slot_row=slot_row.reshape(steps, batch, length),  # type: ignore[arg-type]
    )


def batch_at(batches: SequenceBatch, step: int) -> SequenceBatch:
    """Batch number `step` of stacked batches."""
    return jax.tree.map(lambda array: array[step], batches)


def _gather_windows(windows: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.where(order[:, :, None] >= 0, windows[np.maximum(order, 0)], 0)


def _unique_per_step(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values of each row: values int32[S, C], place of each slot int64[S, n], multiplicity int64[S, C].

    Column 0 is always the padding item 0, whether it occurs or not, with multiplicity 0.
    """
    steps = len(slots)
    with_padding = np.concatenate([np.zeros((steps, 1), slots.dtype), slots], axis=1)
    order = np.argsort(with_padding, axis=1, kind="stable")
    ordered = np.take_along_axis(with_padding, order, axis=1)
    first = np.concatenate([np.ones((steps, 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    place = np.cumsum(first, axis=1) - 1
    width = int(place[:, -1].max(initial=0)) + 1
    unique = np.zeros((steps, width), np.int32)
    np.put_along_axis(unique, place, ordered.astype(np.int32), axis=1)
    inverse = np.empty_like(place)
    np.put_along_axis(inverse, order, place, axis=1)
    flat = np.bincount((np.arange(steps)[:, None] * width + place).ravel(), minlength=steps * width)
    counts = flat.reshape(steps, width)
    counts[:, 0] = 0
    return unique, inverse[:, 1:], counts


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceBatches:
    """All batches of a training run, by number: the same seed gives the same batches, whatever was drawn before.

    `batches[step]` builds one batch, which suits an input pipeline with exact resume; `epoch(e)` builds a whole epoch
    at once, which is faster and can stay on the device. The last batch of an epoch is filled with empty windows, so
    every user trains once per epoch, as in the published training loop (189 steps for 12,076 users at 64).

    Attributes:
        windows: int32[U, L + 1], training windows.
        batch_size: B, windows per batch.
        epochs: How many epochs will be drawn; the capacity is measured over all of them.
        seed: Decides the order of users; each epoch has its own.
        multiple: C and R are rounded up to a multiple of this; pass the number of devices where it does not divide 8.
    """

    windows: np.ndarray
    batch_size: int
    epochs: int
    seed: int = 0
    multiple: int = 8

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.epochs < 1 or self.multiple < 1:
            raise ConfigError(
                f"got batch_size={self.batch_size}, epochs={self.epochs}, multiple={self.multiple}; "
                "expected at least 1 each."
            )
        if self.windows.ndim != 2 or self.windows.shape[1] < 2 or not len(self.windows):
            raise ConfigError(f"got windows of shape {list(self.windows.shape)}, expected [U, L + 1] with U, L ≥ 1.")

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the partial one included."""
        return -(-len(self.windows) // self.batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    @cached_property
    def capacity(self) -> BatchCapacity:
        """The largest sizes among all batches of all epochs, rounded up."""
        unique = rows = 0
        inputs = (self.windows[:, :-1] != 0).sum(axis=1)
        for epoch in range(self.epochs):
            order = self.order(epoch)
            rows = max(rows, int(np.where(order >= 0, inputs[np.maximum(order, 0)], 0).sum(axis=1).max()))
            chunk = max(1, _SLOTS_AT_ONCE // (order.shape[1] * self.windows.shape[1]))
            for start in range(0, len(order), chunk):
                slots = _gather_windows(self.windows, order[start : start + chunk])
                ordered = np.sort(slots.reshape(len(slots), -1), axis=1)
                distinct = ((ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] != 0)).sum(axis=1)
                unique = max(unique, int((distinct + (ordered[:, 0] != 0)).max()) + 1)
        return BatchCapacity(unique=_round_up(unique, self.multiple), rows=_round_up(rows, self.multiple))

    def order(self, epoch: int) -> np.ndarray:
        """Users of each batch of an epoch, int64[steps, B]; -1 fills the last batch."""
        self._check(epoch, self.epochs, "epoch")
        shuffled = np.random.default_rng((self.seed, epoch)).permutation(len(self.windows))
        filled = np.full(self.steps_per_epoch * self.batch_size, -1)
        filled[: len(shuffled)] = shuffled
        return filled.reshape(self.steps_per_epoch, self.batch_size)

    def epoch(self, epoch: int) -> SequenceBatch:
        """All batches of an epoch, stacked on a leading axis."""
        return build_batches(self.windows, self.order(epoch), self.capacity)

    def __getitem__(self, step: int) -> SequenceBatch:
        self._check(step, len(self), "step")
        epoch, within = divmod(step, self.steps_per_epoch)
        return batch_at(build_batches(self.windows, self.order(epoch)[within : within + 1], self.capacity), 0)

    def __iter__(self) -> Iterator[SequenceBatch]:
        for epoch in range(self.epochs):
            stacked = self.epoch(epoch)
            for step in range(self.steps_per_epoch):
                yield batch_at(stacked, step)

    @staticmethod
    def _check(number: int, count: int, name: str) -> None:
        if not 0 <= number < count:
            raise ConfigError(f"got {name} {number}, expected 0 to {count - 1}. Plan more epochs to draw more batches.")
