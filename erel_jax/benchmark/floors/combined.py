"""Several floors as one: each user's scores are scaled to a largest value of 1 and added with weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from erel_jax.errors import ConfigError, suggest


class Floor(Protocol):
    """A training-free method: anything that scores all items for a block of histories."""

    def scores(self, histories: np.ndarray) -> np.ndarray:
        """Scores float32[B, N] for histories int32[B, L]; column j scores item j + 1, higher is better."""
        ...


def combine_scores(parts: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Weighted sum of scores after scaling each user's row by its largest score.

    Args:
        parts: Scores float32[B, N] by name.
        weights: Weight of each part to use, by name.

    Returns:
        float32[B, N]. A row without a positive score contributes nothing.

    Raises:
        ConfigError: No weight is given, or a weight names no part.
    """
    if not weights:
        raise ConfigError("got no weights, expected at least one part to combine.")
    total: np.ndarray | None = None
    for name, weight in weights.items():
        if name not in parts:
            raise ConfigError(f"no part is called {name!r}. {suggest(name, parts)}")
        largest = parts[name].max(axis=1, keepdims=True)
        scale = np.divide(weight, largest, out=np.zeros_like(largest), where=largest > 0)
        scaled = parts[name] * scale
        total = scaled if total is None else np.add(total, scaled, out=total)
    assert total is not None
    return total


@dataclass(frozen=True, kw_only=True, eq=False)
class Combined:
    """A floor made of others, for instance TF-IDF + ½ Markov + embeddings.

    Attributes:
        parts: Floors by name.
        weights: Weight of each part, by the same names.
    """

    parts: Mapping[str, Floor]
    weights: Mapping[str, float]

    def scores(self, histories: np.ndarray) -> np.ndarray:
        """Combined scores float32[B, N]; column j scores item j + 1."""
        return combine_scores({name: self.parts[name].scores(histories) for name in self.weights}, self.weights)
