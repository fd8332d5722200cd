"""Measures of result lists against judgments: what a search returned, and what people said of it.

`retrieval.rank_positives` scores a whole corpus and knows the rank of every right item. Here only the K best ids of
each query are there, from any engine, and judgments may have grades and may say that an item is wrong. Definitions are
those of trec_eval, as `ir_measures` computes them; the order of the list counts, scores are not looked at again.

    lists = judged_lists(found.ids, relevant)
    figures = list_metrics(lists, ("ndcg@10", "recall@100", "ap", "rr@10"))

An id that is not judged is not relevant. A query without any relevant item counts as 0 in every measure.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, DataError

MEASURES = ("ap", "bpref", "judged", "ndcg", "ndcg_exp", "precision", "rbp", "recall", "rprec", "rr", "success")
WITHOUT_CUT = ("bpref", "rbp", "rprec")
PERSISTENCE = 0.8
"""How likely the reader of rank-biased precision goes on to the next result."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedLists:
    """Result lists with the grade of each result.

    Attributes:
        grades: float32[Q, K], best first: the grade of the result at each rank, -1 where nobody judged it.
        present: bool[Q, K], False behind the end of a shorter list.
        judged: float32[Q, P], all grades of the query, descending, -1 fills unused places.
    """

    grades: jax.Array
    present: jax.Array
    judged: jax.Array


def judged_lists(results: np.ndarray, relevant: np.ndarray, grades: np.ndarray | None = None) -> JudgedLists:
    """Looks up the grade of every result.

    Args:
        results: int[Q, K] or text[Q, K], ids best first; -1 or "" behind the end of a shorter list.
        relevant: int[Q, P] or text[Q, P], the judged ids of each query, distinct in a row; -1 or "" fills up.
        grades: float[Q, P] from 0 (judged, and wrong) up, 1 for all when None.

    Raises:
        DataError: shapes disagree, no query, ids of two kinds, a grade is negative or not finite, or an id occurs twice
            in a row.
    """
    results, relevant = np.asarray(results), np.asarray(relevant)
    shapes = results.ndim == relevant.ndim == 2 and len(results) == len(relevant) > 0
    if not shapes or not results.shape[1] or not relevant.shape[1]:
        raise DataError(
            f"got results {list(results.shape)} and judgments {list(relevant.shape)}, expected [Q, K], [Q, P]."
        )
    kinds = {array.dtype.kind.replace("u", "i") for array in (results, relevant)}
    if len(kinds) > 1 or not kinds <= {"i", "U"}:
        raise DataError(f"got ids of {results.dtype} and {relevant.dtype}, expected both whole numbers or both texts.")
    given = np.ones(relevant.shape, np.float32) if grades is None else np.asarray(grades, np.float32)
    if given.shape != relevant.shape:
        raise DataError(
            f"got grades {list(given.shape)} for judgments {list(relevant.shape)}, expected one per judgment."
        )
    results, relevant = _numbered(results, relevant)
    used = relevant >= 0
    if not np.isfinite(given[used]).all() or (given[used] < 0).any():
        raise DataError(f"got grades {given[used].min()} to {given[used].max()}, expected finite ones from 0 up.")
    for name, ids in (("results", results), ("judgments", relevant)):
        ordered = np.sort(ids, axis=1)
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            raise DataError(
                f"the {name} of {int(twice.sum())} queries name an id twice, first query {int(twice.argmax())}."
            )
    given = np.where(used, given, -1.0).astype(np.float32)
    found = _grades_of(results, np.where(used, relevant, -2), given)
    return JudgedLists(grades=found, present=jnp.asarray(results >= 0), judged=jnp.asarray(-np.sort(-given, axis=1)))


def list_metrics(lists: JudgedLists, measures: Sequence[str], *, least: float = 1.0) -> dict[str, float]:
    """Means over the queries, in 0..1; see `list_metrics_per_query`."""
    values = list_metrics_per_query(lists, measures, least=least)
    return {name: float(np.mean(value, dtype=np.float64)) for name, value in values.items()}


def list_metrics_per_query(lists: JudgedLists, measures: Sequence[str], *, least: float = 1.0) -> dict[str, np.ndarray]:
    """Measures of every query, for significance tests.

    Args:
        lists: from `judged_lists`.
        measures: `ndcg@k` (gain = grade), `ndcg_exp@k` (gain = 2^grade - 1), `recall@k`, `precision@k`, `success@k`,
            `rr@k`, `ap@k` (divided by all relevant items), `judged@k`; without `@k` over the whole list. `rprec`,
            `bpref` and `rbp` (persistence 0.8) take no k.
        least: grade from which an item is relevant, for all but `ndcg`, `ndcg_exp` and `judged`.

    Returns:
        float32[Q] by measure.

    Raises:
        ConfigError: an unknown measure, a k that is no whole number above 0, or `least` not above 0.
    """
    if not least > 0:
        raise ConfigError(f"least is {least}, expected above 0: grade 0 says that an item is wrong.")
    wanted = tuple((name, *_parsed(name)) for name in dict.fromkeys(measures))
    found = _measured(lists.grades, lists.present, lists.judged, jnp.float32(least), wanted)
    return {name: np.asarray(value) for name, value in found.items()}


def _parsed(name: str) -> tuple[str, int | None]:
    base, at, cut = name.partition("@")
    cut_fits = (not at) if base in WITHOUT_CUT else (not at or (cut.isdecimal() and int(cut) > 0))
    if base not in MEASURES or not cut_fits:
        known = ", ".join(base if base in WITHOUT_CUT else f"{base}[@k]" for base in MEASURES)
        raise ConfigError(f"got the measure {name!r}, expected one of {known} with a whole number k above 0.")
    return base, int(cut) if at else None


def _numbered(results: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as int32; ids that do not fit are replaced by their place among all ids."""
    text = results.dtype.kind == "U"
    if not text and max(results.max(), relevant.max()) < np.iinfo(np.int32).max:
        return np.maximum(results, -1).astype(np.int32), np.maximum(relevant, -1).astype(np.int32)
    pooled = np.concatenate([results.ravel(), relevant.ravel()])
    nothing = pooled == "" if text else pooled < 0
    numbers = np.unique(pooled, return_inverse=True)[1].astype(np.int32)
    numbers = np.where(nothing, np.int32(-1), numbers)
    return numbers[: results.size].reshape(results.shape), numbers[results.size :].reshape(relevant.shape)


@jax.jit
def _grades_of(results: jax.Array, relevant: jax.Array, grades: jax.Array) -> jax.Array:
    """float32[Q, K]: one pass over the lists per column of judgments."""

    def column(number: jax.Array, found: jax.Array) -> jax.Array:
        own = jax.lax.dynamic_index_in_dim(relevant, number, 1)
        grade = jax.lax.dynamic_index_in_dim(grades, number, 1)
        return jnp.where(results == own, grade, found)

    nothing = jnp.full(results.shape, -1.0, jnp.float32)
    return jax.lax.fori_loop(0, relevant.shape[1], column, nothing)


@functools.partial(jax.jit, static_argnames="wanted")
def _measured(
    grades: jax.Array,
    present: jax.Array,
    judged: jax.Array,
    least: jax.Array,
    wanted: tuple[tuple[str, str, int | None], ...],
) -> dict[str, jax.Array]:
    ranks = jnp.arange(1, grades.shape[1] + 1, dtype=jnp.float32)[None]
    relevant = (grades >= least).astype(jnp.float32)
    shown, marked = present.astype(jnp.float32), (grades >= 0).astype(jnp.float32)
    right = jnp.sum((judged >= least).astype(jnp.float32), axis=1)
    wrong = jnp.sum(((judged >= 0) & (judged < least)).astype(jnp.float32), axis=1)
    per_right = 1.0 / jnp.maximum(right, 1.0)
    seen = jnp.cumsum(relevant, axis=1)

    def one(base: str, cut: int | None) -> jax.Array:
        k = grades.shape[1] if cut is None else cut
        top = relevant[:, :k]
        if base in ("ndcg", "ndcg_exp"):
            gain = (lambda grade: jnp.exp2(grade) - 1.0) if base == "ndcg_exp" else (lambda grade: grade)
            return _ndcg(gain(grades.clip(0.0)), gain(judged.clip(0.0)), cut)
        if base == "precision":
            return jnp.sum(top, axis=1) / (jnp.sum(shown, axis=1).clip(1.0) if cut is None else k)
        if base == "recall":
            return jnp.sum(top, axis=1) * per_right
        if base == "success":
            return jnp.max(top, axis=1)
        if base == "rr":
            return jnp.max(top / ranks[:, :k], axis=1)
        if base == "ap":
            return jnp.sum(top * seen[:, :k] / ranks[:, :k], axis=1) * per_right
        if base == "judged":
            return jnp.sum((marked * shown)[:, :k], axis=1) / jnp.sum(shown[:, :k], axis=1).clip(1.0)
        if base == "rprec":
            return jnp.sum(jnp.where(ranks <= right[:, None], relevant, 0.0), axis=1) * per_right
        if base == "rbp":
            return (1.0 - PERSISTENCE) * jnp.sum(relevant * PERSISTENCE ** (ranks - 1.0), axis=1)
        above = jnp.cumsum(marked - relevant, axis=1)
        limit = jnp.minimum(right, wrong)[:, None].clip(1.0)
        kept = 1.0 - jnp.minimum(above, right[:, None]) / limit
        return jnp.sum(relevant * kept, axis=1) * per_right

    return {name: one(base, cut) for name, base, cut in wanted}


def _ndcg(gains: jax.Array, ideal: jax.Array, cut: int | None) -> jax.Array:
    def discounted(values: jax.Array) -> jax.Array:
        values = values[:, :cut]
        return values @ (1.0 / jnp.log2(jnp.arange(values.shape[1], dtype=jnp.float32) + 2.0))

    best = discounted(ideal)
    return jnp.where(best > 0, discounted(gains) / jnp.where(best > 0, best, 1.0), 0.0)
