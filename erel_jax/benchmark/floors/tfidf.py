"""The floor that reads titles as bags of words: items whose titles share rare words with the user's last items."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from erel_jax.benchmark.floors.recency import recency_weights
from erel_jax.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class TfidfNeighbors:
    """Cosine similarity of TF-IDF title vectors, summed over the last items.

    The vectors are scikit-learn's defaults: lower-cased words of two or more letters, smoothed idf, unit length.

    Attributes:
        titles: N titles of items 1..N; a missing title is "" and gives similarity 0.
        last: How many of the newest items count.
        decay: Weight of an item relative to the next newer one.
    """

    titles: Sequence[str]
    last: int = 5
    decay: float = 0.8
    vectors: Any = field(init=False)
    by_word: Any = field(init=False)

    def __post_init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            vectors: Any = TfidfVectorizer(dtype=np.float32).fit_transform(self.titles)  # type: ignore[arg-type]
        except ValueError as error:
            raise DataError(
                f"none of {len(self.titles)} titles holds a word of two or more letters ({error}). Expected item "
                "texts; check the items file or leave the TF-IDF floor out."
            ) from error
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "by_word", vectors.T.tocsr())

    def scores(self, histories: np.ndarray) -> np.ndarray:
        """Similarity scores float32[B, N]; column j scores item j + 1."""
        weights: Any = recency_weights(histories, len(self.titles), last=self.last, decay=self.decay)
        return ((weights @ self.vectors) @ self.by_word).toarray()
