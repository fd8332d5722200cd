"""Full-ranking evaluation of next-item recommendation: hit rate, NDCG and reciprocal rank.

Each user has one target. All items of the catalog are scored, the items the user has already seen are taken out, and
the target's rank among the rest decides. A rank is counted, not sorted: one more than the number of better items, so
one pass over the scores is enough and nothing but the ranks leaves the device.

Ties need a rule, because items with the same title have the same content score. Two are computed in the same pass:

* `favorable`: rank = 1 + #(score > target's score). Ties count for the method. This is the counting rule behind the
  published and stored figures of the IISAN line, so compare with those under it. A method whose scores are mostly
  equal looks far too good under it: add a tie-break, and look at the other rule.
* `by_id`: score descending, then item number ascending. Ties cannot help; sorting with a stable sort gives the same.

The two differ only by ties; a large gap says that the method cannot tell items apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, DataError, NonFiniteError

UNRANKED = int(np.iinfo(np.int32).max)
"""Rank of a target that is masked because the user has already seen it: never a hit, reciprocal rank 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranks:
    """Ranks of the targets, 1 is best, `UNRANKED` where the target is masked.

    Attributes:
        favorable: int32[U], ties count for the method.
        by_id: int32[U], ties are broken by item number; never smaller than `favorable`.
    """

    favorable: np.ndarray
    by_id: np.ndarray


def count_ranks(scores: jax.Array, targets: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ranks of one block of users; pure and jittable.

    Args:
        scores: float32[U, N], column j scores item j + 1; higher is better.
        targets: int32[U], item numbers 1..N.
        seen: int32[U, H], item numbers to leave out, 0 where there is none; repeats are counted once.

    Returns:
        `favorable` int32[U], `by_id` int32[U], and int32 scalar, the number of scores that are NaN or infinite. With
        such scores ranks mean nothing; the callers in this module refuse them.
    """
    targets, seen = targets.astype(jnp.int32), seen.astype(jnp.int32)
    column = targets[:, None] - 1
    target_score = jnp.take_along_axis(scores, column, axis=1)
    places = jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :]
    better = jnp.sum(scores > target_score, axis=1, dtype=jnp.int32)
    earlier = jnp.sum((scores == target_score) & (places < column), axis=1, dtype=jnp.int32)
    repeats = jnp.triu(jnp.ones((seen.shape[1], seen.shape[1]), bool), 1)
    repeated = jnp.any((seen[:, :, None] == seen[:, None, :]) & repeats[None], axis=1)
    counted = (seen > 0) & jnp.logical_not(repeated)
    seen_score = jnp.take_along_axis(scores, jnp.maximum(seen - 1, 0), axis=1)
    better -= jnp.sum(counted & (seen_score > target_score), axis=1, dtype=jnp.int32)
    earlier -= jnp.sum(counted & (seen_score == target_score) & (seen - 1 < column), axis=1, dtype=jnp.int32)
    masked = jnp.any(seen == targets[:, None], axis=1)
    not_finite = jnp.sum(jnp.logical_not(jnp.isfinite(scores)), dtype=jnp.int32)
    favorable = jnp.where(masked, UNRANKED, 1 + better)
    return favorable, jnp.where(masked, UNRANKED, 1 + better + earlier), not_finite


_count_ranks = jax.jit(count_ranks)


def rank_by_scores(
    score_users: Callable[[np.ndarray], np.ndarray | jax.Array],
    histories: np.ndarray,
    targets: np.ndarray,
    seen: np.ndarray,
    *,
    block_size: int = 128,
) -> Ranks:
    """Rank the targets with any scoring function, block by block.

    Args:
        score_users: Maps histories int32[block, L] to scores float32[block, N]; column j scores item j + 1.
        histories: int32[U, L], left padded with 0.
        targets: int32[U], item numbers 1..N.
        seen: int32[U, H], item numbers to leave out, 0 where there is none.
        block_size: Users per block. The last block is filled up with the first users, so shapes never change.

    Returns:
        Ranks of all users.

    Raises:
        DataError: The arrays disagree in length, hold no user, or a target is not in 1..N.
        NonFiniteError: A score is NaN or infinite.
    """
    _check(targets, histories, seen, block_size)
    users = len(targets)
    favorable, by_id = np.empty(users, np.int32), np.empty(users, np.int32)
    size = min(block_size, users)
    for start in range(0, users, size):
        block = np.arange(start, start + size) % users
        scores = score_users(histories[block])
        _check_items(targets[block], seen[block], scores.shape[1])
        result = _count_ranks(jnp.asarray(scores, jnp.float32), targets[block], seen[block])
        best, strict, not_finite = jax.device_get(result)
        _refuse(int(not_finite), f"users {start} to {min(start + size, users) - 1}")
        real = min(size, users - start)
        favorable[start : start + real], by_id[start : start + real] = best[:real], strict[:real]
    return Ranks(favorable=favorable, by_id=by_id)


def count_ranks_by_embeddings(
    user_states: jax.Array,
    item_embeddings: jax.Array,
    targets: jax.Array,
    seen: jax.Array,
    *,
    block_size: int = 512,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`count_ranks` for scores that are dot products, without ever holding all of them; pure and jittable.

    Args:
        user_states: float[U, E].
        item_embeddings: float[N, E], row j embeds item j + 1.
        targets: int32[U].
        seen: int32[U, H].
        block_size: Users scored at a time; block_size x N scores exist at once.

    Returns:
        As `count_ranks`.

    Numerics: products in full float32 also where the device would use less, because rounded scores tie.
    """
    users = user_states.shape[0]
    size = min(block_size, users)
    padding = -users % size

    def blocks(array: jax.Array, fill: int) -> jax.Array:
        widths = ((0, padding),) + ((0, 0),) * (array.ndim - 1)
        filled = jnp.pad(array, widths, constant_values=fill)
        return filled.reshape(-1, size, *array.shape[1:])

    catalog = item_embeddings.astype(jnp.float32)

    def rank(block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        states, block_targets, block_seen = block
        scores = jnp.einsum("ue,ne->un", states, catalog, precision=jax.lax.Precision.HIGHEST)
        return count_ranks(scores, block_targets, block_seen)

    inputs = blocks(user_states.astype(jnp.float32), 0), blocks(targets, 1), blocks(seen, 0)
    favorable, by_id, not_finite = jax.lax.map(rank, inputs)
    return favorable.reshape(-1)[:users], by_id.reshape(-1)[:users], jnp.sum(not_finite)


_count_ranks_by_embeddings = jax.jit(count_ranks_by_embeddings, static_argnames="block_size")


def rank_by_embeddings(
    user_states: jax.Array | np.ndarray,
    item_embeddings: jax.Array | np.ndarray,
    targets: np.ndarray,
    seen: np.ndarray,
    *,
    block_size: int = 512,
) -> Ranks:
    """Rank the targets by dot products of user states and item embeddings, in one compiled call.

    Args:
        user_states: float[U, E].
        item_embeddings: float[N, E], row j embeds item j + 1 (without the padding item).
        targets: int32[U], item numbers 1..N.
        seen: int32[U, H], item numbers to leave out, 0 where there is none.
        block_size: Users scored at a time.

    Returns:
        Ranks of all users.

    Raises:
        DataError: The arrays disagree in length, hold no user, or a number is not in 1..N.
        NonFiniteError: A score is NaN or infinite.
    """
    _check(targets, user_states, seen, block_size)
    _check_items(targets, seen, item_embeddings.shape[0])
    result = _count_ranks_by_embeddings(user_states, item_embeddings, targets, seen, block_size=block_size)
    favorable, by_id, not_finite = jax.device_get(result)
    _refuse(int(not_finite), "the scores of users and items")
    return Ranks(favorable=favorable, by_id=by_id)


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """HR@k: share of users whose target is among the k best. With one target per user this is Recall@k."""
    return float(np.mean(ranks <= _positive(k)))


def ndcg(ranks: np.ndarray, k: int) -> float:
    """NDCG@k with one target per user: mean of 1 / log2(rank + 1) where rank ≤ k, else 0."""
    return float(np.mean(np.where(ranks <= _positive(k), 1.0 / np.log2(ranks.astype(np.float64) + 1.0), 0.0)))


def mean_reciprocal_rank(ranks: np.ndarray) -> float:
    """Mean of 1 / rank over the whole catalog; a masked target gives 0."""
    return float(np.mean(np.where(ranks == UNRANKED, 0.0, 1.0 / ranks.astype(np.float64))))


def ranking_metrics(ranks: Ranks, ks: Sequence[int] = (10,)) -> dict[str, float]:
    """All figures of an evaluation, in 0..1.

    Args:
        ranks: What `rank_by_scores` or `rank_by_embeddings` returned.
        ks: Cut-offs.

    Returns:
        `hr@k`, `ndcg@k` and `mrr` under the favorable rule, the one published figures use, and the same names with
        `_ties_by_id` under the other rule. Compare figures of one rule, one catalog and one set of users only.
    """
    metrics: dict[str, float] = {}
    for values, suffix in ((ranks.favorable, ""), (ranks.by_id, "_ties_by_id")):
        for k in ks:
            metrics[f"hr@{k}{suffix}"] = hit_rate(values, k)
            metrics[f"ndcg@{k}{suffix}"] = ndcg(values, k)
        metrics[f"mrr{suffix}"] = mean_reciprocal_rank(values)
    return metrics


def _positive(k: int) -> int:
    if k < 1:
        raise ConfigError(f"got k={k}, expected at least 1.")
    return k


def _check(targets: np.ndarray, histories: np.ndarray | jax.Array, seen: np.ndarray, block_size: int) -> None:
    if block_size < 1:
        raise ConfigError(f"got block_size={block_size}, expected at least 1.")
    if not len(targets) or not len(targets) == len(histories) == len(seen):
        raise DataError(
            f"got {len(targets)} targets, {len(histories)} users and {len(seen)} rows of seen items; expected the "
            "same number of each, at least 1."
        )


def _check_items(targets: np.ndarray, seen: np.ndarray, items: int) -> None:
    if targets.min() < 1 or targets.max() > items or seen.max(initial=0) > items or seen.min(initial=0) < 0:
        raise DataError(
            f"got targets {targets.min()}..{targets.max()} and seen items {seen.min(initial=0)}..{seen.max(initial=0)} "
            f"for {items} scored items; expected targets in 1..{items} and seen items in 0..{items}."
        )


def _refuse(not_finite: int, where: str) -> None:
    if not_finite:
        raise NonFiniteError(
            f"{not_finite} scores are NaN or infinite ({where}); expected finite scores, since ranks would mean "
            "nothing. Check the model's parameters and the item embeddings for NaN."
        )
