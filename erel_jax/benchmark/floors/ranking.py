"""Ranks of all floors in one pass, so that a combination does not score its parts a second time."""

from collections.abc import Mapping

import numpy as np

from erel_jax.benchmark.floors.combined import Floor, combine_scores
from erel_jax.metrics.ranking import Ranks, rank_by_scores


def rank_floors(
    floors: Mapping[str, Floor],
    histories: np.ndarray,
    targets: np.ndarray,
    seen: np.ndarray,
    *,
    combinations: Mapping[str, Mapping[str, float]] | None = None,
    block_size: int = 512,
) -> dict[str, Ranks]:
    """Rank the targets under every floor and every combination of floors.

    Args:
        floors: Floors by name.
        histories: int32[U, L], left padded with 0.
        targets: int32[U], item numbers 1..N.
        seen: int32[U, H], item numbers to leave out, 0 where there is none.
        combinations: For each further row its name and the weights of its parts, by floor name.
        block_size: Users per block.

    Returns:
        Ranks by name, floors first; the same as ranking each floor and each `Combined` alone.

    Raises:
        ConfigError: A combination names an unknown floor.
        DataError: The arrays do not fit together.
        NonFiniteError: A floor gave a score that is NaN or infinite.
    """
    combinations = combinations or {}
    ranks: dict[str, list[Ranks]] = {name: [] for name in (*floors, *combinations)}
    size = min(block_size, len(targets))
    for start in range(0, len(targets), size):
        block = slice(start, start + size)
        parts = {name: floor.scores(histories[block]) for name, floor in floors.items()}
        for name in ranks:
            scores = parts[name] if name in parts else combine_scores(parts, combinations[name])
            ranked = rank_by_scores(
                lambda _, scores=scores: scores, histories[block], targets[block], seen[block], block_size=size
            )
            ranks[name].append(ranked)
    return {
        name: Ranks(
            favorable=np.concatenate([part.favorable for part in parts]),
            by_id=np.concatenate([part.by_id for part in parts]),
        )
        for name, parts in ranks.items()
    }
