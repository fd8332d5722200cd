"""Which modalities of an item an index needs: those whose absence its queries would notice.

Before items are indexed, each modality is left out in turn; where the scores of the item's own validation queries drop
by no more than a threshold, the item is stored without it, and that modality need not be encoded when the item is
encoded again.
"""

from collections.abc import Callable

import numpy as np

from erel_jax.errors import ConfigError, NonFiniteError

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]


def unit_sum(parts: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Score fusion: the sum of the unit embeddings that are there, normalized.

    Args:
        parts: float[M, N, E].
        present: bool[M, N].

    Returns:
        float[N, E]; zero where nothing is there.
    """
    lengths = np.linalg.norm(parts, axis=-1, keepdims=True)
    total = (np.where(present[..., None], parts / np.maximum(lengths, 1e-12), 0.0)).sum(0)
    return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-12)


def needed_modalities(
    parts: np.ndarray,
    present: np.ndarray,
    queries: np.ndarray,
    positives: np.ndarray,
    *,
    epsilon: float = 0.0,
    fuse: Fuse = unit_sum,
) -> np.ndarray:
    """Leaves out, item by item, the modality whose absence costs least, as long as that is no more than epsilon.

    The value of a modality is how far the mean score of the item's validation queries drops without it; a negative
    value means that the item is found better without. At most one modality leaves an item per round and values are
    measured again, so two modalities that say the same do not both go.

    Args:
        parts: float[M, N, E], embeddings of each item's modalities.
        present: bool[M, N].
        queries: float[Q, E], validation queries.
        positives: int[Q], the item that each query is for.
        epsilon: largest drop of the mean score, per left-out modality, that is accepted.
        fuse: `fuse(parts, present)` gives the items' embeddings float[N, E]; it should be that of the index.

    Returns:
        bool[M, N], within `present`. An item without validation queries keeps all it has, any other at least one.

    Raises:
        ConfigError: shapes do not fit, or a positive is not an item.
        NonFiniteError: a present embedding or a query is not finite.
    """
    parts, present, queries, positives = (np.asarray(x) for x in (parts, present, queries, positives))
    _check(parts, present, queries, positives)
    counts = np.bincount(positives, minlength=parts.shape[1])
    kept = present.astype(bool).copy()

    def mean_scores(mask: np.ndarray) -> np.ndarray:
        scores = np.einsum("qe,qe->q", queries, fuse(parts, mask)[positives])
        return np.bincount(positives, scores, minlength=len(counts)) / np.maximum(counts, 1)

    for _ in range(len(parts) - 1):
        full = mean_scores(kept)
        values = np.full(kept.shape, np.inf)
        for modality in range(len(parts)):
            without = kept.copy()
            without[modality] = False
            candidates = kept[modality] & (kept.sum(0) > 1) & (counts > 0)
            values[modality] = np.where(candidates, full - mean_scores(without), np.inf)
        least = values.argmin(0)
        items = np.flatnonzero(values.min(0) <= epsilon)
        if not items.size:
            break
        kept[least[items], items] = False
    return kept


def _check(parts: np.ndarray, present: np.ndarray, queries: np.ndarray, positives: np.ndarray) -> None:
    fits = (
        parts.ndim == 3
        and present.shape == parts.shape[:2]
        and queries.ndim == 2
        and queries.shape[1] == parts.shape[2]
        and positives.shape == queries.shape[:1]
    )
    if not fits:
        shapes = [list(x.shape) for x in (parts, present, queries, positives)]
        raise ConfigError(f"got shapes {shapes}, expected [M, N, E], [M, N], [Q, E] and [Q].")
    if not len(positives) or positives.min() < 0 or positives.max() >= parts.shape[1]:
        raise ConfigError(f"expected one or more positives from 0 to {parts.shape[1] - 1}.")
    if not np.isfinite(queries).all() or not np.isfinite(parts[present.astype(bool)]).all():
        raise NonFiniteError("a query or a present modality holds NaN or infinity.")
