"""Item cold start: some items are hidden from training, and the task is to place them.

A share of the items is hidden. Each user's last hidden item is the test target, to be ranked among all hidden items by
the unhidden (*warm*) items before it; ids say nothing about it, content must. Training windows and the validation
target are warm items from before the test target, so nothing of a hidden item is ever seen.
"""

from collections.abc import Collection, Sequence

import numpy as np

from erel_jax.data.sequence_splits import EvaluationSplit, SequenceData, number_items
from erel_jax.data.sequences import Sequences
from erel_jax.errors import ConfigError, DataError

BEFORE = 5


def hide_items(item_ids: list[str], *, share: float = 0.1, seed: int = 0) -> tuple[str, ...]:
    """A random share of items, rounded down but at least one, in the order given.

    Args:
        item_ids: the items that may be hidden.
        share: in (0, 1).
        seed: of the choice.

    Raises:
        ConfigError: the share is not between 0 and 1, or there is no item.
    """
    if not 0 < share < 1 or not item_ids:
        raise ConfigError(f"got share={share} of {len(item_ids)} items, expected a share in (0, 1) of at least 1 item.")
    count = max(1, int(share * len(item_ids)))
    chosen = np.random.default_rng(seed).permutation(len(item_ids))[:count]
    return tuple(item_ids[index] for index in sorted(chosen))


def split_cold_items(
    sequences: Sequences,
    hidden: Collection[str],
    *,
    item_order: Sequence[str] | None = None,
    max_length: int = 10,
) -> SequenceData:
    """The cold-start split.

    Args:
        sequences: what a reader returned.
        hidden: ids of the hidden items.
        item_order: as in `split_sequences`.
        max_length: L. A user's last L + 2 warm items before the target count.

    Returns:
        As `split_sequences`; `test.candidates` are the hidden items and `test.seen` masks nothing. The validation
        target is ranked among all items. Users without a hidden item after at least five warm ones are dropped.

    Raises:
        DataError: nothing is left, or no hidden item occurs.

    Reference: the cold-start protocol of ML-1M that the floors of this project were measured under.
    """
    vocabulary = {item: code for code, item in enumerate(sequences.vocabulary)}
    codes = np.asarray([vocabulary[item] for item in hidden if item in vocabulary], np.int64)
    if not len(codes):
        raise DataError(f"{sequences.source}: none of {len(hidden)} hidden items occurs. Hide items that do.")
    cold = np.zeros(len(vocabulary), bool)
    cold[codes] = True
    kept, tails, targets = _ends(sequences, cold, max_length + 2)
    used = np.unique(np.concatenate([*tails, codes]))
    number_of, item_ids, unknown = number_items(sequences, used, item_order)
    tail = np.zeros((len(kept), max_length + 2), np.int32)
    for row, warm in enumerate(tails):
        tail[row, tail.shape[1] - len(warm) :] = number_of[warm]
    windows = np.ascontiguousarray(tail[:, :-1])
    counts = np.bincount(windows.ravel(), minlength=len(item_ids) + 1)
    counts[0] = 0
    test = EvaluationSplit(
        histories=tail[:, 2:].copy(),
        targets=number_of[targets].astype(np.int32),
        seen=np.zeros((len(kept), 1), np.int32),
        candidates=np.sort(number_of[codes]).astype(np.int32),
    )
    return SequenceData(
        user_ids=tuple(sequences.user_ids[user] for user in kept),
        item_ids=item_ids,
        windows=windows,
        valid=EvaluationSplit(histories=tail[:, 1:-1].copy(), targets=tail[:, -1].copy(), seen=windows.copy()),
        test=test,
        train_counts=counts.astype(np.int64),
        dropped_users=len(sequences.user_ids) - len(kept),
        unknown_items=unknown,
        max_length=max_length,
    )


def _ends(sequences: Sequences, cold: np.ndarray, length: int) -> tuple[list[int], list[np.ndarray], np.ndarray]:
    """Users with a hidden item after enough warm ones, the codes of the last warm ones before it, and its code."""
    kept, tails, targets = [], [], []
    for user in range(len(sequences.user_ids)):
        own = sequences.codes[sequences.offsets[user] : sequences.offsets[user + 1]]
        places = np.flatnonzero(cold[own])
        if not len(places):
            continue
        before = own[: places[-1]]
        warm = before[~cold[before]]
        if len(warm) < BEFORE:
            continue
        kept.append(user)
        tails.append(warm[-length:])
        targets.append(int(own[places[-1]]))
    if not kept:
        raise DataError(f"{sequences.source}: no user has a hidden item after {BEFORE} others. Hide more items.")
    return kept, tails, np.asarray(targets, np.int64)
