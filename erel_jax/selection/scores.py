"""Filters by the score of a trained encoder: how well do picture and caption of a row agree?

`pair_cosines` measures, streaming both sides; `filter_by_score` keeps what is above a threshold or the best share. The
score is any number per row, so the same filter serves cosines of CLIP, clean probabilities or learnability.
"""

import jax
import numpy as np

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.selection.blocks import BLOCK_ROWS, Embeddings, blocks_of
from erel_jax.selection.fingerprint import score_fingerprint
from erel_jax.selection.kmeans import unit_rows
from erel_jax.selection.outcome import KEPT, Outcome, decide

_SHOWN = 5


def pair_cosines(queries: Embeddings, items: Embeddings, *, rows: int = BLOCK_ROWS) -> np.ndarray:
    """Cosine of each query with the item of its row (the CLIP score where both come from CLIP).

    Args:
        queries: float[N, E] or stream of blocks.
        items: float[N, E] or stream of blocks; row i belongs to row i of `queries`. The two streams may be cut
            differently.
        rows: rows compared at a time.

    Returns:
        float32[N]. A zero row has cosine 0.

    Raises:
        ConfigError: the widths differ.
        DataError: the numbers of rows differ, or there are none.
        NonFiniteError: rows hold NaN or infinity.
    """
    found: list[np.ndarray] = []
    others = blocks_of(items, "items", rows=rows)
    count = 0
    for start, left in blocks_of(queries, "queries", rows=rows):
        _, right = next(others, (0, np.zeros((0, left.shape[1]), np.float32)))
        if left.shape[1] != right.shape[1]:
            raise ConfigError(
                f"queries have width {left.shape[1]} and items {right.shape[1]}, expected one width; both sides must "
                "come from the same model."
            )
        count = start + len(left)
        if len(left) != len(right):
            raise DataError(_misaligned(count, start + len(right), others, len(right) < len(left)))
        found.append(np.einsum("ne,ne->n", unit_rows(left), unit_rows(right)))
    if next(others, None) is not None:
        raise DataError(f"there are {count} queries and more items than that, expected as many of each, row by row.")
    return np.concatenate(found).astype(np.float32)


def filter_by_score(
    scores: np.ndarray | jax.Array, *, threshold: float | None = None, top_share: float | None = None
) -> Outcome:
    """Keeps rows whose score is high.

    Args:
        scores: float[N], higher is better.
        threshold: keep scores at or above it.
        top_share: keep this share of the rows, the best ones, rounded to whole rows and at least one; rows of equal
            score in row order.

    Returns:
        The outcome, reason `low_score`.

    Raises:
        ConfigError: not exactly one of the two settings is given, or a value is out of range.
        DataError: there is no score, or none reaches the threshold.
        NonFiniteError: scores are NaN or infinite; names the first rows.

    The best share depends on the training budget and on the target (`choose_by_proxy` measures it); a threshold on
    cosines means something for one model alone.
    """
    values = np.asarray(scores)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ConfigError(f"scores are {values.dtype}{list(values.shape)}, expected numbers [N], one per row.")
    if (threshold is None) == (top_share is None):
        raise ConfigError(f"got threshold={threshold} and top_share={top_share}, expected exactly one of them.")
    check_finite_rows("scores", values)
    codes = np.zeros(len(values), np.int16)
    if threshold is not None:
        if not np.isfinite(threshold):
            raise ConfigError(f"threshold is {threshold}, expected a finite number.")
        codes[values >= threshold] = KEPT
    elif top_share is not None:
        if not 0 < top_share <= 1:
            raise ConfigError(f"top_share is {top_share}, expected a share above 0 and at most 1.")
        best = np.argsort(-values.astype(np.float64), kind="stable")[: max(1, round(top_share * len(values)))]
        codes[best] = KEPT
    settings = {"threshold": threshold, "top_share": top_share}
    return decide("score", settings, score_fingerprint(values), codes, ("low_score",))


def check_finite_rows(name: str, values: np.ndarray) -> None:
    """Raises NonFiniteError, with the first row numbers, where a number of [N] is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise NonFiniteError(
            f"{name}: {bad.size} of {values.size} are NaN or infinite, first rows {bad[:_SHOWN].tolist()}; expected "
            "finite numbers. Look at the inputs of these rows."
        )


def _misaligned(queries: int, items: int, others: object, items_ended: bool) -> str:
    side = f"items end after {items} rows" if items_ended else f"queries end after {queries} rows"
    return f"{side} and the other side goes on, expected as many queries as items, row by row."
