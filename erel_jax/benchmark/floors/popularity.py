"""The floor that knows no user: every item scores its share of the training interactions."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Popularity:
    """Scores by training popularity.

    Attributes:
        train_counts: int[N + 1], how often each item occurs in the training windows; entry 0 is padding.
    """

    train_counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Share of each item 1..N among the training interactions, float32[N]."""
        counts = self.train_counts[1:].astype(np.float64)
        return (counts / max(counts.sum(), 1.0)).astype(np.float32)

    def scores(self, histories: np.ndarray) -> np.ndarray:
        """The same scores for every user, float32[B, N] (a read-only view); column j scores item j + 1."""
        shares = self.shares
        return np.broadcast_to(shares, (len(histories), len(shares)))
