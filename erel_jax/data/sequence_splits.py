"""Leave-one-out split of users' sequences, and the windows a sequence model trains on.

Each user's last item is the test target, the one before it the validation target, the rest trains. The rules are
those of the IISAN line of work, so results can be compared with published ones: users with fewer than five items are
dropped, only the last `max_length + 3` items of a user count, items are numbered 1..N in the order of the items file
and only if they occur in what was kept, and 0 stands for padding. All windows are padded on the left, so the newest
item always sits in the last slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from erel_jax.data.sequences import Sequences
from erel_jax.errors import ConfigError, DataError

_EVALUATED = ("valid", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSplit:
    """What one evaluation needs: the input, the answer, and what must not be recommended.

    Attributes:
        histories: int32[U, L], the model's input, left padded with 0.
        targets: int32[U], the held-out item of each user.
        seen: int32[U, H], items whose score is set to minus infinity, 0 where there is none. A target that occurs
            here can never be a hit; this is the published protocol.
        candidates: int32[C], the items that are ranked, increasing; None for all.
    """

    histories: np.ndarray
    targets: np.ndarray
    seen: np.ndarray
    candidates: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceData:
    """Sequences after filtering, numbering and splitting; item 0 is padding, real items are 1..N.

    Attributes:
        user_ids: U ids of the users that were kept, in file order.
        item_ids: N ids; `item_ids[i - 1]` is the id of item i.
        windows: int32[U, L + 1], training windows, left padded. Slots 0..L-1 are inputs, slots 1..L targets.
        valid: Evaluation on the item before the last; training items are masked.
        test: Evaluation on the last item; training items and the validation target are masked.
        train_counts: int64[N + 1], how often each item occurs in the training windows; entry 0 is 0.
        dropped_users: Users left out because they had fewer than `min_length` items.
        unknown_items: Kept items that do not occur in `item_order`; they are numbered after the known ones.
        max_length: L, the number of input slots.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    windows: np.ndarray
    valid: EvaluationSplit
    test: EvaluationSplit
    train_counts: np.ndarray
    dropped_users: int
    unknown_items: int
    max_length: int

    @property
    def user_count(self) -> int:
        """U, the number of users."""
        return len(self.user_ids)

    @property
    def item_count(self) -> int:
        """N, the number of items without the padding item 0."""
        return len(self.item_ids)

    @property
    def popularity(self) -> np.ndarray:
        """Share of each item among all training interactions, float32[N + 1]; entry 0 is 1, so that its log is 0."""
        share = self.train_counts / self.train_counts.sum()
        share[0] = 1.0
        return share.astype(np.float32)

    @property
    def log_popularity(self) -> np.ndarray:
        """Log of `popularity`, float32[N + 1].

        An item that never trains gets the log of one single count instead of minus infinity. Such items never are
        candidates of the training loss, so the value is never used there; it only keeps arithmetic finite.
        """
        counts = np.maximum(self.train_counts, 1).astype(np.float64)
        logs = np.log(counts) - np.log(float(self.train_counts.sum()))
        logs[0] = 0.0
        return logs.astype(np.float32)

    def evaluation(self, split: str) -> EvaluationSplit:
        """The split called `split`, either "valid" or "test"."""
        if split not in _EVALUATED:
            raise ConfigError(f"got split {split!r}, expected one of {', '.join(_EVALUATED)}.")
        return self.valid if split == "valid" else self.test


@dataclass(frozen=True, kw_only=True)
class SequenceStatistics:
    """Figures that describe a split; shares are in 0..1.

    Attributes:
        users: Users kept.
        items: Items kept, without padding.
        interactions: Interactions kept, validation and test targets included.
        mean_train_length: Mean number of training items per user.
        pad_share: Share of padding among all slots of the training windows.
        cold_test_share: Share of users whose test target never trains.
        repeated_test_share: Share of users whose test target is masked, which caps the hit rate.
        repeated_valid_share: The same for the validation target.
    """

    users: int
    items: int
    interactions: int
    mean_train_length: float
    pad_share: float
    cold_test_share: float
    repeated_test_share: float
    repeated_valid_share: float


def split_sequences(
    sequences: Sequences, *, item_order: Sequence[str] | None = None, max_length: int = 10, min_length: int = 5
) -> SequenceData:
    """Filter, number and split sequences by the leave-one-out rule.

    Args:
        sequences: What a reader returned.
        item_order: Item ids in the order in which to number them, usually the rows of the items file; None numbers
            items in the order of `sequences.vocabulary`. Items that occur in sequences and not here are kept: they
            are numbered last, counted in `unknown_items`, and have neither text nor picture. Dropping them would
            change the users' sequences, and refusing them would make one missing title fatal.
        max_length: L, input slots of a window. A user's last L + 3 items count.
        min_length: Users with fewer items are dropped and counted; at least 3, so that each split has an item.

    Returns:
        The split data, all arrays on the host.

    Raises:
        ConfigError: `max_length` or `min_length` is too small, or `item_order` repeats an id.
        DataError: No user is long enough, or more than half of the kept items are unknown to `item_order`, which
            means that the two files do not belong together.

    Reference: GAIR-Lab/IISAN, preprocessing and split rules.
    """
    if max_length < 1 or min_length < 3:
        raise ConfigError(f"got max_length={max_length}, min_length={min_length}, expected at least 1 and 3.")
    lengths = sequences.lengths
    kept = np.flatnonzero(lengths >= min_length)
    if not kept.size:
        longest = int(lengths.max(initial=0))
        hint = f" {sequences.vocabulary[0]!r} is read as one item: spaces separate items." if longest == 1 else ""
        raise DataError(
            f"{sequences.source}: none of {len(lengths)} users has {min_length} items or more (the longest has "
            f"{longest}). Give longer sequences, one row per user: the last two items of each are held out.{hint}"
        )
    slots = sequences.offsets[kept + 1][:, None] + np.arange(-(max_length + 3), 0)
    real = slots >= sequences.offsets[kept][:, None]
    codes = np.where(real, sequences.codes[np.maximum(slots, 0)], 0)
    number_of, item_ids, unknown = number_items(sequences, np.unique(codes[real]), item_order)
    tail = np.where(real, number_of[codes], 0).astype(np.int32)
    windows = np.ascontiguousarray(tail[:, :-2])
    counts = np.bincount(windows.ravel(), minlength=len(item_ids) + 1)
    counts[0] = 0
    return SequenceData(
        user_ids=tuple(sequences.user_ids[user] for user in kept),
        item_ids=item_ids,
        windows=windows,
        valid=EvaluationSplit(histories=tail[:, 1:-2].copy(), targets=tail[:, -2].copy(), seen=windows.copy()),
        test=EvaluationSplit(histories=tail[:, 2:-1].copy(), targets=tail[:, -1].copy(), seen=tail[:, :-1].copy()),
        train_counts=counts.astype(np.int64),
        dropped_users=len(lengths) - len(kept),
        unknown_items=unknown,
        max_length=max_length,
    )


def repeats_can_hit(split: EvaluationSplit) -> EvaluationSplit:
    """The same split under the other rule: a target that occurs in the history is not masked there.

    IISAN's protocol masks the whole history, so a repeated target never hits and HR@k is capped below 1. Numbers under
    the two rules may not be compared.
    """
    return replace(split, seen=np.where(split.seen == split.targets[:, None], 0, split.seen))


def number_items(
    sequences: Sequences, used: np.ndarray, item_order: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...], int]:
    """Numbers the used codes 1..N: a lookup int64[vocabulary], the item ids in that order, and how many are unknown."""
    vocabulary = sequences.vocabulary
    unknown = 0
    ordered = used
    if item_order is not None:
        position = {item: index for index, item in enumerate(item_order)}
        if len(position) != len(item_order):
            raise ConfigError(f"item_order has {len(item_order) - len(position)} repeated ids, expected distinct ids.")
        # Unknown items sort behind all known ones and among themselves by first appearance.
        places = np.asarray([position.get(vocabulary[code], len(position) + int(code)) for code in used])
        ordered = used[np.argsort(places, kind="stable")]
        unknown = int((places >= len(position)).sum())
        if 2 * unknown > len(used):
            missing = next(vocabulary[code] for code in used if vocabulary[code] not in position)
            raise DataError(
                f"{sequences.source}: {unknown} of {len(used)} items have no row in the items file, for example "
                f"{missing!r}. Expected an items file that lists the items of these sequences; check that both files "
                "belong together."
            )
    number_of = np.zeros(max(len(vocabulary), 1), np.int64)
    number_of[ordered] = np.arange(1, len(ordered) + 1)
    return number_of, tuple(vocabulary[code] for code in ordered), unknown


def sequence_statistics(data: SequenceData) -> SequenceStatistics:
    """Measure the figures that describe a split and bound what a model can reach on it.

    Args:
        data: What `split_sequences` returned.

    Returns:
        Counts and shares; `repeated_test_share` is the share of users nobody can hit under the published protocol.
    """
    train_items = int((data.windows != 0).sum())
    slots = data.windows.size

    def repeated(split: EvaluationSplit) -> float:
        return float((split.seen == split.targets[:, None]).any(axis=1).mean())

    return SequenceStatistics(
        users=data.user_count,
        items=data.item_count,
        interactions=train_items + 2 * data.user_count,
        mean_train_length=train_items / data.user_count,
        pad_share=1.0 - train_items / slots,
        cold_test_share=float((data.train_counts[data.test.targets] == 0).mean()),
        repeated_test_share=repeated(data.test),
        repeated_valid_share=repeated(data.valid),
    )
