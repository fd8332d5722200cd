"""Retrieval metrics with several right answers per query: Recall@k, reciprocal rank, NDCG.

All items are ranked for each query, best score first and equal scores by item position, so figures are deterministic.
"Recall@k" has two meanings in the literature, and both are here under different names:

* `recall@k`, *hit style*, as image-text retrieval papers report it: 1 if at least one right item is among the k best.
  Elsewhere this is called success@k or hit rate.
* `recall_fraction@k`, the textbook recall: the share of the right items that is among the k best.

A query without any right item counts as 0 in every figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, DataError, NonFiniteError

UNRANKED = int(np.iinfo(np.int32).max)
"""Rank that fills the unused places of queries with fewer right items than others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PositiveRanks:
    """Ranks of the right items of each query.

    Attributes:
        ranks: int32[Q, P], ascending along P, 1 is best; `UNRANKED` fills unused places.
        counts: int64[Q], number of right items of each query.
    """

    ranks: np.ndarray
    counts: np.ndarray


def positives_by_group(query_groups: np.ndarray, item_groups: np.ndarray) -> np.ndarray:
    """Right items of each query when queries and items carry group numbers: equal numbers belong together.

    Args:
        query_groups: int[Q].
        item_groups: int[N].

    Returns:
        int32[Q, P], item positions ascending, -1 fills unused places; P is the largest number of right items, at
        least 1.
    """
    order = np.argsort(item_groups, kind="stable")
    ordered = item_groups[order]
    first = np.searchsorted(ordered, query_groups, side="left")
    counts = np.searchsorted(ordered, query_groups, side="right") - first
    places = np.arange(max(1, int(counts.max(initial=0))))
    inside = places[None, :] < counts[:, None]
    chosen = order[np.minimum(first[:, None] + places[None, :], len(order) - 1)] if len(order) else np.zeros(1, int)
    return np.where(inside, chosen, -1).astype(np.int32)


def count_positive_ranks(scores: jax.Array, positives: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rank of every right item of a block of queries; pure and jittable.

    Args:
        scores: float32[Q, N], higher is better.
        positives: int32[Q, P], item positions 0..N-1, distinct in a row, -1 for unused places.

    Returns:
        int32[Q, P], 1 + #(better score) + #(equal score at a lower position), `UNRANKED` for unused places; and int32
        scalar, the number of scores that are NaN or infinite.
    """
    places = jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :]

    def rank(column: jax.Array) -> jax.Array:
        position = jnp.maximum(column, 0)[:, None]
        own = jnp.take_along_axis(scores, position, axis=1)
        ahead = (scores > own) | ((scores == own) & (places < position))
        return jnp.where(column < 0, UNRANKED, 1 + jnp.sum(ahead, axis=1, dtype=jnp.int32))

    ranks = jax.lax.map(rank, positives.astype(jnp.int32).T).T
    return jnp.sort(ranks, axis=1), jnp.sum(jnp.logical_not(jnp.isfinite(scores)), dtype=jnp.int32)


def count_positive_ranks_by_embeddings(
    queries: jax.Array, items: jax.Array, positives: jax.Array, *, block_size: int = 256
) -> tuple[jax.Array, jax.Array]:
    """`count_positive_ranks` for scores that are dot products, block by block; pure and jittable.

    Args:
        queries: float[Q, E].
        items: float[N, E].
        positives: int32[Q, P].
        block_size: Queries scored at a time; block_size x N scores exist at once.

    Returns:
        As `count_positive_ranks`.

    Numerics: products in full float32 also where the device would use less, because rounded scores tie.
    """
    count = queries.shape[0]
    size = min(block_size, count)
    padding = ((0, -count % size), (0, 0))
    query_blocks = jnp.pad(queries.astype(jnp.float32), padding).reshape(-1, size, queries.shape[1])
    positive_blocks = jnp.pad(positives, padding, constant_values=-1).reshape(-1, size, positives.shape[1])
    corpus = items.astype(jnp.float32)

    def rank(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scores = jnp.einsum("qe,ne->qn", block[0], corpus, precision=jax.lax.Precision.HIGHEST)
        return count_positive_ranks(scores, block[1])

    ranks, not_finite = jax.lax.map(rank, (query_blocks, positive_blocks))
    return ranks.reshape(-1, positives.shape[1])[:count], jnp.sum(not_finite)


_count_by_embeddings = jax.jit(count_positive_ranks_by_embeddings, static_argnames="block_size")


def rank_positives(
    queries: jax.Array | np.ndarray, items: jax.Array | np.ndarray, positives: np.ndarray, *, block_size: int = 256
) -> PositiveRanks:
    """Rank the right items of every query by dot product, in one compiled call.

    Args:
        queries: float[Q, E]; normalize first if the score is to be the cosine.
        items: float[N, E].
        positives: int32[Q, P], positions of the right items, -1 for unused places (`positives_by_group` makes it).
        block_size: Queries scored at a time.

    Returns:
        Ranks and counts of the right items.

    Raises:
        ConfigError: `block_size` is below 1.
        DataError: Shapes disagree, there is no query or no item, or a position is not in 0..N-1.
        NonFiniteError: A score is NaN or infinite.
    """
    if block_size < 1:
        raise ConfigError(f"got block_size={block_size}, expected at least 1.")
    fitting = queries.ndim == items.ndim == positives.ndim == 2 and queries.shape[1] == items.shape[1]
    if not fitting or not len(queries) or len(queries) != len(positives) or not len(items) or not positives.shape[1]:
        raise DataError(
            f"got queries {list(queries.shape)}, items {list(items.shape)} and positives {list(positives.shape)}; "
            "expected [Q, E], [N, E] and [Q, P], none of them empty."
        )
    if positives.max() >= len(items) or positives.min() < -1:
        raise DataError(
            f"got positions {positives.min()}..{positives.max()} of right items, expected 0..{len(items) - 1}, or -1 "
            "for unused places."
        )
    ranks, not_finite = jax.device_get(
        _count_by_embeddings(queries, items, positives.astype(np.int32), block_size=block_size)
    )
    if not_finite:
        raise NonFiniteError(
            f"{int(not_finite)} scores of queries and items are NaN or infinite; expected finite scores, since ranks "
            "would mean nothing. Check the encoders' parameters for NaN."
        )
    return PositiveRanks(ranks=ranks, counts=(positives >= 0).sum(axis=1))


def recall_at(ranks: PositiveRanks, k: int) -> float:
    """Recall@k, hit style: share of queries with at least one right item among the k best."""
    return float(np.mean(ranks.ranks[:, 0] <= _positive(k)))


def hit_recall(ranks: PositiveRanks, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Hit-style recall under a name that cannot be mistaken for the textbook one.

    Args:
        ranks: from `rank_positives`.
        ks: cut-offs.

    Returns:
        `hit_recall@k`: share of queries with at least one right item among the k best, in 0..1. Further right items
        change nothing; a query without any counts as 0. Ties: lower position first.

    Raises:
        ConfigError: a k is below 1.

    Reference: what UniIR (Wei et al. 2024) reports as Recall@k on M-BEIR; Success@k in `ir_measures`.
    Relation: the value of `recall@k` in `retrieval_metrics`, and never below `recall_fraction@k`.
    """
    return {f"hit_recall@{k}": recall_at(ranks, k) for k in ks}


def recall_fraction_at(ranks: PositiveRanks, k: int) -> float:
    """Textbook recall@k: mean share of a query's right items that is among the k best; 0 for a query without any."""
    found = (ranks.ranks <= _positive(k)).sum(axis=1)
    return float(np.mean(found / np.maximum(ranks.counts, 1)))


def best_reciprocal_rank(ranks: PositiveRanks) -> float:
    """Mean of 1 / rank of the best right item over the whole corpus; 0 for a query without any."""
    best = ranks.ranks[:, 0].astype(np.float64)
    return float(np.mean(np.where(best == UNRANKED, 0.0, 1.0 / best)))


def ndcg_at(ranks: PositiveRanks, k: int) -> float:
    """NDCG@k with gain 1 per right item and discount 1 / log2(rank + 1), relative to the best possible order."""
    values = ranks.ranks.astype(np.float64)
    gains = np.where(ranks.ranks <= _positive(k), 1.0 / np.log2(values + 1.0), 0.0).sum(axis=1)
    discounts = 1.0 / np.log2(np.arange(k) + 2.0)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(ranks.counts, k)]
    return float(np.mean(np.divide(gains, ideal, out=np.zeros_like(gains), where=ideal > 0)))


def retrieval_metrics(ranks: PositiveRanks, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """All figures of one direction, in 0..1: `recall@k` (hit style), `recall_fraction@k`, `ndcg@k` and `mrr`.

    Compare figures over one corpus and one set of queries only: recall falls as the corpus grows.
    """
    metrics: dict[str, float] = {}
    for k in ks:
        metrics[f"recall@{k}"] = recall_at(ranks, k)
        metrics[f"recall_fraction@{k}"] = recall_fraction_at(ranks, k)
        metrics[f"ndcg@{k}"] = ndcg_at(ranks, k)
    metrics["mrr"] = best_reciprocal_rank(ranks)
    return metrics


def two_way_retrieval(
    queries: jax.Array | np.ndarray,
    items: jax.Array | np.ndarray,
    query_groups: np.ndarray,
    item_groups: np.ndarray,
    *,
    ks: Sequence[int] = (1, 5, 10),
    block_size: int = 256,
) -> dict[str, float]:
    """Both directions of a dual encoder, for example text to image and image to text.

    Args:
        queries: float[Q, E].
        items: float[N, E].
        query_groups: int[Q]; a query and an item belong together if their groups are equal.
        item_groups: int[N].
        ks: Cut-offs.
        block_size: Rows scored at a time.

    Returns:
        Figures of `retrieval_metrics`, named `query_to_item/…` and `item_to_query/…`, and the mean of the two
        directions under the plain names.

    Raises:
        DataError: Shapes disagree or a side is empty.
        NonFiniteError: A score is NaN or infinite.
    """
    if len(query_groups) != len(queries) or len(item_groups) != len(items):
        raise DataError(
            f"got {len(queries)} queries with {len(query_groups)} groups and {len(items)} items with "
            f"{len(item_groups)} groups; expected one group per row."
        )
    forward = rank_positives(queries, items, positives_by_group(query_groups, item_groups), block_size=block_size)
    backward = rank_positives(items, queries, positives_by_group(item_groups, query_groups), block_size=block_size)
    there, back = retrieval_metrics(forward, ks), retrieval_metrics(backward, ks)
    metrics = {name: 0.5 * (there[name] + back[name]) for name in there}
    metrics |= {f"query_to_item/{name}": value for name, value in there.items()}
    return metrics | {f"item_to_query/{name}": value for name, value in back.items()}


def _positive(k: int) -> int:
    if k < 1:
        raise ConfigError(f"got k={k}, expected at least 1.")
    return k
