"""Groups of rows that say the same thing, for losses that count several positives.

A group id per row tells a loss which pairs of a batch must not be each other's negatives. Ids come from equal texts,
from near-duplicate embeddings, or from both joined. They count from 0 in order of first appearance.
"""

from collections.abc import Iterable

import numpy as np

from erel_jax.errors import DataError
from erel_jax.selection.captions import caption_key
from erel_jax.selection.ids import row_groups
from erel_jax.selection.semdedup import DuplicateCosines, check_epsilon


def group_equal_texts(texts: Iterable[str | None]) -> np.ndarray:
    """One group per distinct text; case, width forms and white space do not count.

    Args:
        texts: N texts, also a stream. An empty or missing text is a group of its own.

    Returns:
        int32[N].

    Raises:
        DataError: there are no texts, or one is neither text nor None (names the row).
    """
    known: dict[bytes, int] = {}
    ids = []
    for row, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise DataError(f"text of row {row} is {type(text).__name__}, expected text or None.")
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
    check_epsilon(epsilon)
    rows = np.arange(len(measured.partner))
    linked = (measured.partner >= 0) & (measured.cosines > 1 - epsilon)
    parent = np.where(linked, measured.partner, rows)
    while not np.array_equal(parent, further := parent[parent]):
        parent = further
    return _by_appearance(parent)


def join_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Groups of rows that are linked by either grouping, or by a chain of both.

    Args:
        first, second: int[N] group ids; a negative one is missing and links its row to no other.

    Returns:
        int32[N].

    Raises:
        DataError: the numbers of rows differ.
        ConfigError: the ids are not [N] or no whole numbers.
    """
    one, other = row_groups("the first group ids", first), row_groups("the second group ids", second)
    if one.shape != other.shape:
        raise DataError(f"got group ids {list(one.shape)} and {list(other.shape)}, expected the same [N].")
    sides = [one, other]
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
