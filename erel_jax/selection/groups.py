"""Groups of rows that say the same thing, for losses that count several positives.

A group id per row tells a loss which pairs of a batch must not be each other's negatives. Ids come from equal texts,
from near-duplicate embeddings, or from both joined. They count from 0 in order of first appearance.
"""

from collections.abc import Iterable

import numpy as np

from erel_jax.errors import ConfigError, DataError
from erel_jax.selection.captions import caption_key
from erel_jax.selection.semdedup import DuplicateCosines


def group_equal_texts(texts: Iterable[str | None]) -> np.ndarray:
    """One group per distinct text; case, width forms and white space do not count.

    Args:
        texts: N texts, also a stream. An empty or missing text is a group of its own.

    Returns:
        int32[N].

    Raises:
        DataError: there are no texts.
    """
    known: dict[bytes, int] = {}
    ids = []
    for row, text in enumerate(texts):
        key = caption_key(text) if text is not None and text.strip() else b"row %d" % row
        ids.append(known.setdefault(key, len(known)))
    if not ids:
        raise DataError("got no texts to group, expected at least one.")
    return np.asarray(ids, np.int32)


def group_near_duplicates(measured: DuplicateCosines, epsilon: float = 0.05) -> np.ndarray:
    """Groups rows with the earlier row that they are most alike to.

    Args:
        measured: from `duplicate_cosines`.
        epsilon: rows with a cosine above 1 - epsilon to that row join its group, in 0..2.

    Returns:
        int32[N].

    Raises:
        ConfigError: `epsilon` is out of range.

    A row joins one earlier row alone, so a row between two groups does not merge them.
    """
    if not 0 <= epsilon <= 2:
        raise ConfigError(f"epsilon is {epsilon}, expected 0 to 2; cosines above 1 - epsilon are duplicates.")
    rows = np.arange(len(measured.partner))
    linked = (measured.partner >= 0) & (measured.cosines > 1 - epsilon)
    parent = np.where(linked, measured.partner, rows)
    while not np.array_equal(parent, further := parent[parent]):
        parent = further
    return _by_appearance(parent)


def join_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Groups of rows that are linked by either grouping, or by a chain of both.

    Args:
        first, second: int[N] group ids.

    Returns:
        int32[N].

    Raises:
        DataError: the numbers of rows differ.
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.shape != other.shape or one.ndim != 1:
        raise DataError(f"got group ids {list(one.shape)} and {list(other.shape)}, expected the same [N].")
    sides = [np.unique(ids, return_inverse=True)[1] for ids in (one, other)]
    label = np.arange(len(one))
    while True:
        lowered = label
        for ids in sides:
            smallest = np.full(ids.max(initial=0) + 1, len(one))
            np.minimum.at(smallest, ids, lowered)
            lowered = smallest[ids]
        if np.array_equal(lowered, label):
            return _by_appearance(label)
        label = lowered


def _by_appearance(labels: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]
