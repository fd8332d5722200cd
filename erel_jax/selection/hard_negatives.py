"""Hard negatives from a pool that mixes modalities.

A retriever trained on mixed pools learns to prefer one modality: for "find a picture of …" it returns texts, which
resemble the query more. Two kinds of negatives teach it better: candidates of the *wrong modality* that rank above the
right answer, and candidates of the wanted modality that are wrong although they rank high.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, DataError
from erel_jax.selection.blocks import Embeddings, blocks_of
from erel_jax.selection.ids import whole_numbers
from erel_jax.selection.kmeans import unit_rows

NO_SCORE = -jnp.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class HardNegatives:
    """Rows of the pool for each query, the hardest first; -1 fills places for which there was no candidate.

    Attributes:
        same_modality: int32[Q, k], wrong answers in the wanted modality.
        wrong_modality: int32[Q, k], candidates of another modality that score above the best right answer.
        near_positive: int64[Q], candidates left out because they score nearly as high as the best right answer.
    """

    same_modality: np.ndarray
    wrong_modality: np.ndarray
    near_positive: np.ndarray


def mine_hard_negatives(
    queries: np.ndarray | jax.Array,
    pool: Embeddings,
    positives: np.ndarray,
    *,
    wanted: np.ndarray,
    modality: np.ndarray,
    count: int = 8,
    ratio: float = 0.95,
    rows: int = 4096,
    query_rows: int = 512,
) -> HardNegatives:
    """Ranks a pool for each query and keeps its hardest wrong answers.

    Args:
        queries: float[Q, E]. Normalized here.
        pool: float[N, E] or stream of blocks; read twice for each block of queries. Normalized here.
        positives: int[Q, P], rows of the pool that are right, -1 for unused places.
        wanted: int[Q], modality that each query asks for, a number from 0.
        modality: int[N], modality of each row of the pool, a number from 0.
        count: negatives per query and kind.
        ratio: a candidate of the wanted modality above this share of the best right answer's cosine c, that is above
            `c - (1 - ratio) |c|`, is probably right too and is left out; in (0, 1].
        rows: rows of the pool scored at a time.
        query_rows: queries ranked at a time; query_rows x rows scores exist at once.

    Returns:
        The negatives.

    Raises:
        ConfigError: widths differ, a setting is out of range, or rows or modalities are no whole numbers.
        DataError: lengths do not fit, a row number is outside the pool, a modality is negative, or a query has no
            positive; names rows.
        NonFiniteError: rows hold NaN or infinity.

    Reference: modality-aware negatives of MM-Embed (Lin et al. 2024); the bound is that of `losses.false_negatives`.
    """
    if count < 1 or not 0 < ratio <= 1 or query_rows < 1:
        raise ConfigError(
            f"got count={count}, ratio={ratio}, query_rows={query_rows}; expected at least 1, in (0, 1], at least 1."
        )
    vectors = np.concatenate([block for _, block in blocks_of(queries, "queries")])
    right, asked, kinds = _checked(len(vectors), positives, wanted, modality)
    parts = [
        _mine(vectors[part], pool, right[part], asked[part], kinds, count, ratio, rows)
        for part in (slice(start, start + query_rows) for start in range(0, len(vectors), query_rows))
    ]
    same, wrong, near = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return HardNegatives(same_modality=same, wrong_modality=wrong, near_positive=near)


def _checked(
    queries: int, positives: np.ndarray, wanted: np.ndarray, modality: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three as int32, where they fit together."""
    named = {"positives": positives, "wanted modalities": wanted, "modalities": modality}
    right, asked, kinds = (whole_numbers(name, values) for name, values in named.items())
    if right.ndim != 2 or asked.shape != (queries,) or len(right) != queries or kinds.ndim != 1:
        raise DataError(
            f"got {queries} queries, positives {list(right.shape)}, wanted {list(asked.shape)} and modality "
            f"{list(kinds.shape)}; expected [Q, P], [Q] and [N]."
        )
    if right.max(initial=-1) >= len(kinds) or right.min(initial=-1) < -1:
        raise DataError(f"got positives {right.min()}..{right.max()}, expected 0..{len(kinds) - 1}, or -1 for unused.")
    for name, numbers in (("wanted modalities", asked), ("modalities", kinds)):
        missing = np.flatnonzero((numbers < 0) | (numbers > np.iinfo(np.int32).max))
        if missing.size:
            raise DataError(
                f"{missing.size} {name} are negative or too large, first rows {missing[:5].tolist()}; expected numbers "
                "from 0. Give rows of unknown modality a number that no query wants."
            )
    lonely = np.flatnonzero((right < 0).all(axis=1))
    if lonely.size:
        raise DataError(f"{lonely.size} queries have no positive, first rows {lonely[:5].tolist()}; leave them out.")
    return right.astype(np.int32), asked.astype(np.int32), kinds.astype(np.int32)


def _mine(
    vectors: np.ndarray,
    pool: Embeddings,
    right: np.ndarray,
    asked: np.ndarray,
    kinds: np.ndarray,
    count: int,
    ratio: float,
    rows: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(same modality, wrong modality, number left out) for one block of queries."""
    directions = jnp.asarray(unit_rows(vectors))
    width = vectors.shape[1]
    best = jnp.full(len(vectors), NO_SCORE, jnp.float32)
    seen = 0
    for start, block in blocks_of(pool, "pool", rows=rows, width=width):
        best = jnp.maximum(best, _best_right(directions, _padded(block, rows), jnp.asarray(right), np.int32(start)))
        seen = start + len(block)
    if seen != len(kinds):
        raise DataError(f"the pool has {seen} rows and modality {len(kinds)}, expected one modality per row.")
    empty = jnp.full((len(vectors), count), NO_SCORE, jnp.float32), jnp.full((len(vectors), count), -1, jnp.int32)
    same, wrong, near = empty, empty, np.zeros(len(vectors), np.int64)
    bound = best - (1 - ratio) * jnp.abs(best)
    for start, block in blocks_of(pool, "pool", rows=rows, width=width):
        kind = np.pad(kinds[start : start + len(block)], (0, rows - len(block)))
        real = np.arange(rows) < len(block)
        scores = directions, _padded(block, rows), jnp.asarray(right), np.int32(start)
        same, wrong, left_out = _merge(*scores, jnp.asarray(asked), kind, real, best, bound, same, wrong)
        near += np.asarray(left_out)
    return np.asarray(same[1]), np.asarray(wrong[1]), near


def _padded(block: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(unit_rows(block), ((0, rows - len(block)), (0, 0)))


def _scores(queries: jax.Array, block: jax.Array, right: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(float32[Q, n] cosines, bool[Q, n] of right answers)."""
    cosines = jnp.einsum("qe,ne->qn", queries, block, precision=jax.lax.Precision.HIGHEST)
    places = jnp.where(right >= 0, right - start, -1)
    inside = (places >= 0) & (places < block.shape[0])
    queries_of = jnp.broadcast_to(jnp.arange(right.shape[0], dtype=jnp.int32)[:, None], right.shape)
    # Places outside the block are sent beyond its end, where they are dropped.
    columns = jnp.where(inside, places, block.shape[0])
    is_right = jnp.zeros(cosines.shape, bool).at[queries_of, columns].set(True, mode="drop")
    return cosines, is_right


@jax.jit
def _best_right(queries: jax.Array, block: jax.Array, right: jax.Array, start: jax.Array) -> jax.Array:
    cosines, is_right = _scores(queries, block, right, start)
    return jnp.max(jnp.where(is_right, cosines, NO_SCORE), axis=1)


@jax.jit
def _merge(
    queries: jax.Array,
    block: jax.Array,
    right: jax.Array,
    start: jax.Array,
    asked: jax.Array,
    kind: jax.Array,
    real: jax.Array,
    best: jax.Array,
    bound: jax.Array,
    same: tuple[jax.Array, jax.Array],
    wrong: tuple[jax.Array, jax.Array],
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array], jax.Array]:
    """Best candidates so far with those of one more block."""
    cosines, is_right = _scores(queries, block, right, start)
    candidate = real[None, :] & jnp.logical_not(is_right)
    fitting = asked[:, None] == kind[None, :]
    too_good = candidate & fitting & (cosines > bound[:, None])
    numbers = jnp.broadcast_to(start + jnp.arange(block.shape[0], dtype=jnp.int32)[None, :], cosines.shape)
    same = _best_of(same, jnp.where(candidate & fitting & jnp.logical_not(too_good), cosines, NO_SCORE), numbers)
    ahead = candidate & jnp.logical_not(fitting) & (cosines > best[:, None])
    wrong = _best_of(wrong, jnp.where(ahead, cosines, NO_SCORE), numbers)
    return same, wrong, jnp.sum(too_good, axis=1, dtype=jnp.int32)


def _best_of(kept: tuple[jax.Array, jax.Array], scores: jax.Array, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best of what was kept and of new scores; equal scores in row order."""
    count = kept[0].shape[1]
    every, rows = jnp.concatenate([kept[0], scores], axis=1), jnp.concatenate([kept[1], numbers], axis=1)
    best, places = jax.lax.top_k(every, count)
    return best, jnp.where(best == NO_SCORE, -1, jnp.take_along_axis(rows, places, axis=1))
