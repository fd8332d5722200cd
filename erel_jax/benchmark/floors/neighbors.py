"""The floor that uses frozen embeddings: items near the user's last items, nothing trained."""

from dataclasses import dataclass, field

import numpy as np

from erel_jax.benchmark.floors.recency import recency_weights
from erel_jax.errors import DataError, NonFiniteError


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingNeighbors:
    """Cosine similarity of given item embeddings, summed over the last items.

    Attributes:
        embeddings: float[N, E], row j embeds item j + 1; any length, they are normalized here. A zero row (an item
            without content) has similarity 0 to everything.
        last: How many of the newest items count.
        decay: Weight of an item relative to the next newer one.
    """

    embeddings: np.ndarray
    last: int = 5
    decay: float = 0.8
    unit: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        vectors = np.asarray(self.embeddings, np.float32)
        if vectors.ndim != 2:
            raise DataError(f"got embeddings of shape {list(vectors.shape)}, expected [N, E], one row per item.")
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise NonFiniteError(f"the embedding of item {row + 1} is NaN or infinite; expected finite embeddings.")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        unit = np.divide(vectors, lengths, out=np.zeros(vectors.shape, np.float64), where=lengths > 0)
        object.__setattr__(self, "unit", unit.astype(np.float32))

    def scores(self, histories: np.ndarray) -> np.ndarray:
        """Similarity scores float32[B, N]; column j scores item j + 1."""
        weights = recency_weights(histories, len(self.unit), last=self.last, decay=self.decay)
        return (weights @ self.unit) @ self.unit.T
