"""What a search found."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """The best rows of each query, best first; equal scores stand in row order.

    Attributes:
        rows: int32[Q, K], row of the corpus, -1 where there are fewer than K rows to find.
        scores: float32[Q, K], higher is better, -inf where `rows` is -1.
    """

    rows: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)
