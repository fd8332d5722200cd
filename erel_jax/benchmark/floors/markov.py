"""The floor that knows transitions: what followed the user's last items in other users' training sequences."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse

from erel_jax.benchmark.floors.popularity import Popularity
from erel_jax.benchmark.floors.recency import recency_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Markov:
    """First-order transition counts, summed over the last items.

    score(item) = Σ_j decay^j · count(j-th newest item → item) + popularity_weight · share(item). The popularity term
    orders the many items without a transition, which would all tie otherwise.

    Attributes:
        windows: int32[U, L + 1], training windows, left padded with 0.
        train_counts: int[N + 1], training count of each item.
        last: How many of the newest items count.
        decay: Weight of an item relative to the next newer one.
        popularity_weight: Weight of the popularity share.
    """

    windows: np.ndarray
    train_counts: np.ndarray
    last: int = 5
    decay: float = 0.5
    popularity_weight: float = 1e-3
    transitions: Any = field(init=False)

    def __post_init__(self) -> None:
        items = len(self.train_counts) - 1
        before, after = self.windows[:, :-1], self.windows[:, 1:]
        real = (before > 0) & (after > 0)
        places = before[real] - 1, after[real] - 1
        counts = scipy.sparse.csr_matrix((np.ones(int(real.sum()), np.float32), places), shape=(items, items))
        object.__setattr__(self, "transitions", counts)

    def scores(self, histories: np.ndarray) -> np.ndarray:
        """Transition scores float32[B, N]; column j scores item j + 1."""
        weights: Any = recency_weights(histories, len(self.train_counts) - 1, last=self.last, decay=self.decay)
        popularity = Popularity(train_counts=self.train_counts).shares
        return (weights @ self.transitions).toarray() + np.float32(self.popularity_weight) * popularity
