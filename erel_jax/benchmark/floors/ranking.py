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
    block_size: int = 128,
) -> dict[str, Ranks]:
    """Rank the targets under every floor and every combination of floors.

    Args:
        floors: Floors by name.
        histories: int32[U, L], left padded with 0.
        targets: int32[U], item numbers 1..N.
        seen: int32[U, H], item numbers to leave out, 0 where there is none.
        combinations: For each further row its name and the weights of its parts, by floor name.
        block_size: Users per block; a small block of scores stays in the processor's cache.

    Returns:
        Ranks by name, floors first; the same as ranking each floor and each `Combined` alone.

    Raises:
        ConfigError: A combination names an unknown floor.
        DataError: The arrays do not fit together.
        NonFiniteError: A floor gave a score that is NaN or infinite.
    """
    combinations = combinations or {}
    users = len(targets)
    size = max(1, min(block_size, users))
    blocks: dict[str, list[Ranks]] = {name: [] for name in (*floors, *combinations)}
    for start in range(0, users, size):
        block = np.arange(start, start + size) % users
        inputs = histories[block], targets[block], seen[block]
        parts = {name: floor.scores(inputs[0]) for name, floor in floors.items()}
        for name, ranked in blocks.items():
            scores = parts[name] if name in parts else combine_scores(parts, combinations[name])
            ranked.append(rank_by_scores(lambda _, scores=scores: scores, *inputs, block_size=size))
    return {name: _join(ranked, users) for name, ranked in blocks.items()}


def _join(ranked: list[Ranks], users: int) -> Ranks:
    return Ranks(
        favorable=np.concatenate([block.favorable for block in ranked])[:users],
        by_id=np.concatenate([block.by_id for block in ranked])[:users],
    )
