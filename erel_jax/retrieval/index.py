"""An index: vectors under ids, stored by a code, with what it measured about itself.

    index = build_index(ids, vectors, code=eden(256), keep_vectors=True)
    print(index.measured.describe())
    found = search_index(index, queries, 10)
    index = add(index, more_ids, more_vectors)
    index = delete(index, [17, 23])
    save_index(folder, index)

An index is a value: `add` and `delete` return another one that shares what has not changed. Deleted rows are masked and
leave with `compacted`, which `save_index` does by itself.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_count
from erel_jax.retrieval.coded import rescored, search_coded
from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.codes.floats import Float32
from erel_jax.retrieval.codes.inverted import Inverted
from erel_jax.retrieval.exact import search_exact
from erel_jax.retrieval.hits import Hits
from erel_jax.retrieval.ids import as_ids, ids_of, rows_of
from erel_jax.retrieval.inverted import Lists, lists_of, search_inverted
from erel_jax.retrieval.metric import INNER_PRODUCT, check_same, prepared

SAMPLE, TOP = 100, 10
LONGEST = 1e15
"""Length of rows that are brought to 1 before they are queries to measure with, as are those below its inverse."""
AGAIN = 4
"""Hits per wanted hit that are scored again where vectors are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What building an index showed.

    Attributes:
        recall: share of the exact ten best that a search finds, over some of the index's own rows as queries.
        bytes_per_vector: of the code, and of the kept vectors.
        build_seconds: spent encoding.
        query_seconds: median time of one query by itself.
        wanted_recall: what was asked for, None for nothing.
        probes: lists that a query looked into, and how many there are; None without lists.
        kept: whether the vectors are kept, and score the best hits again.
    """

    recall: float
    bytes_per_vector: int
    build_seconds: float
    query_seconds: float
    wanted_recall: float | None = None
    probes: Sequence[int] | None = None
    kept: bool = False

    def describe(self) -> str:
        """One line for a person; below the recall asked for it says what to change."""
        line = (
            f"recall@{TOP} {self.recall:.3f} against exact search, {self.bytes_per_vector:,} bytes per vector, "
            f"built in {self.build_seconds:.1f} s, {1e3 * self.query_seconds:.1f} ms per query"
        )
        if self.wanted_recall is None or self.recall >= self.wanted_recall:
            return line
        lists = "" if self.probes is None else f"more probes (now {self.probes[0]} of {self.probes[1]} lists), "
        again = "" if self.kept else ", or keep_vectors=True, which scores the best hits again"
        return (
            f"{line}. That is below the recall of {self.wanted_recall:g} asked for: take {lists}more bits per "
            f"dimension{again}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """Vectors under ids.

    Attributes:
        code: how vectors are stored.
        ids: int64[N] or text[N].
        stored: what the code keeps of each row.
        alive: bool[N], False for deleted rows.
        vectors: float32[N, E] where they are kept for scoring again, else None.
        measured: what building it showed, None before it was measured.
        metric: what scores are, `inner_product` or `cosine`.
        made_by: fingerprint of the encoder that made the vectors, None where it was not said.
    """

    code: Code
    ids: np.ndarray
    stored: Mapping[str, np.ndarray]
    alive: np.ndarray
    vectors: np.ndarray | None = None
    measured: Measured | None = None
    metric: str = INNER_PRODUCT
    made_by: str | None = None

    def __len__(self) -> int:
        return int(self.alive.sum())

    @cached_property
    def lists(self) -> Lists:
        """Rows list by list, where the code is `Inverted`; laid out at the first search."""
        if not isinstance(self.code, Inverted):
            raise ConfigError(
                f"the code is {type(self.code).__name__}, which has no lists; build with `inverted(...)`."
            )
        return lists_of(self.code, self.stored)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Ids [Q, K] of the best rows, best first (-1 or "" where there are fewer), and their scores float32[Q, K]."""

    ids: np.ndarray
    scores: np.ndarray


def build_index(
    ids: Sequence[int] | Sequence[str] | np.ndarray,
    vectors: np.ndarray,
    *,
    code: Code | None = None,
    keep_vectors: bool = False,
    wanted_recall: float | None = None,
    sample: int = SAMPLE,
    metric: str = INNER_PRODUCT,
    made_by: str | None = None,
) -> Index:
    """Encodes vectors, and measures the search over them against the exact one.

    Args:
        ids: N whole numbers from 0 or texts, each once.
        vectors: float[N, E].
        code: how to store them; `Float32` when None.
        keep_vectors: keep them as they are too, in memory or where they are mapped from, to score the best hits again.
        wanted_recall: recall@10 that the search should reach; falling short is no error, `measured.describe()` says so.
        sample: rows to measure with, as noisy queries; 0 measures nothing.
        metric: `inner_product`, or `cosine`, which brings rows and queries to length 1.
        made_by: fingerprint of the encoder; searching and adding with another one is refused then.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors` and `as_ids`, or ids and vectors differ in number.
        DataError: an id occurs twice.
    """
    ids, vectors = as_ids(ids), prepared("vectors", vectors, metric)
    if len(ids) != len(vectors):
        raise ConfigError(f"got {len(ids)} ids and {len(vectors)} vectors, expected one id per vector.")
    check_wanted(wanted_recall)
    check_count(sample, "sample", least=0)
    code = Float32(vectors.shape[1]) if code is None else code
    check_code(code)
    begun = time.perf_counter()
    index = Index(
        code=code,
        ids=ids,
        stored=code.encode(vectors),
        alive=np.ones(len(ids), bool),
        vectors=vectors if keep_vectors else None,
        metric=metric,
        made_by=made_by,
    )
    seconds = time.perf_counter() - begun
    if not sample:
        return index
    return _same_rows(index, measured=_measured(index, vectors, sample, seconds, wanted_recall))


def search_index(
    index: Index,
    queries: np.ndarray,
    k: int,
    *,
    among: Sequence[int] | Sequence[str] | np.ndarray | None = None,
    made_by: str | None = None,
    metric: str | None = None,
) -> Found:
    """The ids of the K best rows of each query.

    Args:
        index: where to search.
        queries: float[Q, E].
        k: hits per query; where vectors are kept, four times as many are found by code and scored again.
        among: ids that may be found, as `index.ids[mask]` where there is a mask; None allows all, an empty list
            nothing. Unknown ones are an error.
        made_by: fingerprint of the encoder of the queries; None where it is not known.
        metric: what the caller takes scores for; None takes what the index has.

    Raises:
        ConfigError, NonFiniteError: as `search_coded`, the index has another encoder or metric, or `among` holds no
            ids.
        DataError: an unknown id in `among`.
    """
    check_same(index.made_by, made_by, "encoder")
    check_same(index.metric, metric, "metric")
    check_count(k)
    queries = prepared("queries", queries, index.metric, index.code.width)
    mask = index.alive
    if among is not None:
        mask = np.zeros(len(index.ids), bool)
        mask[rows_of(index.ids, as_ids(among, once=False))] = True
        mask &= index.alive
    hits = _hits(index, queries, k, mask)
    return Found(ids=ids_of(index.ids, hits.rows), scores=hits.scores)


def add(
    index: Index, ids: Sequence[int] | Sequence[str] | np.ndarray, vectors: np.ndarray, *, made_by: str | None = None
) -> Index:
    """The index with more rows; nothing that is stored is encoded again. No ids and no vectors change nothing.

    Raises:
        ConfigError, NonFiniteError: as `build_index`, ids of the other kind, or another encoder.
        DataError: an id is there already; delete it first.
    """
    check_same(index.made_by, made_by, "encoder")
    new = as_ids(ids)
    if not len(new) and np.shape(vectors)[:1] == (0,):
        return index
    vectors = prepared("vectors", vectors, index.metric, index.code.width)
    if len(new) != len(vectors) or (new.dtype.kind == "U") != (index.ids.dtype.kind == "U"):
        raise ConfigError(
            f"got {len(new)} ids of {new.dtype} for {len(vectors)} vectors; expected one per vector, like "
            f"{index.ids.dtype}."
        )
    index = compacted(index)
    more = index.code.encode(vectors)
    together = np.concatenate([index.ids, new])
    return dataclasses.replace(
        index,
        ids=as_ids(together),
        stored={name: np.concatenate([values, more[name]]) for name, values in index.stored.items()},
        alive=np.ones(len(together), bool),
        vectors=None if index.vectors is None else np.concatenate([index.vectors, vectors.astype(np.float32)]),
    )


def delete(index: Index, ids: Sequence[int] | Sequence[str] | np.ndarray) -> Index:
    """The index without some ids; they are masked at once and leave with `compacted`.

    Raises:
        ConfigError: as `as_ids`.
        DataError: an id is unknown or was deleted before.
    """
    present = np.flatnonzero(index.alive)
    alive = index.alive.copy()
    alive[present[rows_of(index.ids[present], as_ids(ids))]] = False
    return _same_rows(index, alive=alive)


def probing(index: Index, probes: int, *, margin: float | None = None) -> Index:
    """The index with queries that look into another number of lists; nothing is measured again.

    Args:
        index: of lists.
        probes: the most lists that a query looks into.
        margin: see `Inverted.margin`; `margin_for` finds one.

    Raises:
        ConfigError: the index has no lists, or fewer than `probes`, or the margin is negative.
    """
    code = index.code
    check_count(probes, "probes")
    if not isinstance(code, Inverted) or probes > len(code.centroids):
        most = len(code.centroids) if isinstance(code, Inverted) else 0
        raise ConfigError(f"got {probes} probes for an index of {most} lists, expected 1 to the number of lists.")
    if margin is not None and not margin >= 0:
        raise ConfigError(f"margin is {margin}, expected 0 or more.")
    return _same_rows(index, code=dataclasses.replace(code, probes=probes, margin=margin))


def compacted(index: Index) -> Index:
    """The index without the rows that were deleted."""
    if index.alive.all():
        return index
    kept = np.flatnonzero(index.alive)
    return dataclasses.replace(
        index,
        ids=index.ids[kept],
        stored={name: values[kept] for name, values in index.stored.items()},
        alive=np.ones(len(kept), bool),
        vectors=None if index.vectors is None else index.vectors[kept],
    )


def _same_rows(index: Index, **changed: object) -> Index:
    """The index with other fields but the same rows, whose lists need no other layout."""
    other = dataclasses.replace(index, **changed)  # type: ignore[arg-type]
    if "lists" in index.__dict__:
        other.__dict__["lists"] = index.lists
    return other


def _hits(index: Index, queries: np.ndarray, k: int, mask: np.ndarray) -> Hits:
    vectors, code = index.vectors, index.code
    wanted = k if vectors is None else AGAIN * k
    if isinstance(code, Inverted):
        close = search_inverted(code, index.lists, queries, wanted, mask=mask)
    else:
        close = search_coded(code, index.stored, queries, wanted, mask=mask)
    return close if vectors is None else rescored(close, vectors, queries, k)


def check_code(code: object) -> None:
    """Refuses what is no code: a name, a class, or nothing.

    Raises:
        ConfigError: says how codes are made.
    """
    if isinstance(code, type) or not hasattr(code, "project"):
        raise ConfigError(
            f"code is {code!r}, expected one that is made for a width or fitted to a sample, such as "
            "Int8PerVector(256), eden(256) or product(sample, 32), from erel_jax.retrieval.codes."
        )


def check_wanted(recall: float | None) -> None:
    """Refuses a recall that nothing can reach.

    Raises:
        ConfigError: it is not above 0 and at most 1.
    """
    if recall is not None and not 0 < recall <= 1:
        raise ConfigError(f"wanted_recall is {recall}, expected above 0 and at most 1.")


def noisy_rows(vectors: np.ndarray, sample: int) -> np.ndarray:
    """Queries to measure with, float32: some rows with noise of a fifth of their length, or they were too easy to find.

    Args:
        vectors: float[N, E].
        sample: how many rows, at most N.
    """
    draw = np.random.default_rng(0)
    rows = np.sort(draw.choice(len(vectors), min(sample, len(vectors)), replace=False))
    near = np.asarray(vectors[rows], np.float64)
    noise = draw.standard_normal(near.shape)
    lengths = np.linalg.norm(near, axis=1, keepdims=True)
    queries = near + 0.2 * lengths / np.linalg.norm(noise, axis=1, keepdims=True) * noise
    # Products of such rows with each other leave float32. What a query finds does not depend on its length.
    extreme = (lengths > LONGEST) | ((lengths > 0) & (lengths < 1 / LONGEST))
    return (queries / np.where(extreme, lengths, 1)).astype(np.float32)


def measured_with(
    index: Index, queries: np.ndarray, truth: np.ndarray, seconds: float, wanted: float | None
) -> Measured:
    """What searching an index shows.

    Args:
        index: without deleted rows.
        queries: float[Q, E].
        truth: int32[Q, K], rows that exact search finds.
        seconds: spent encoding.
        wanted: recall to reach, None for no wish.
    """
    k = truth.shape[1]
    found = _hits(index, queries, k, index.alive).rows
    shares = [len(set(a) & set(b)) / k for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    times = []
    for query in queries[:6]:
        begun = time.perf_counter()
        _hits(index, query[None], k, index.alive)
        times.append(time.perf_counter() - begun)
    kept = 0 if index.vectors is None else index.vectors.itemsize * index.vectors.shape[1]
    return Measured(
        recall=float(np.mean(shares)),
        bytes_per_vector=index.code.bytes_per_vector + kept,
        build_seconds=seconds,
        query_seconds=float(np.median(times[1:] or times)),
        wanted_recall=wanted,
        probes=[index.code.probes, len(index.code.centroids)] if isinstance(index.code, Inverted) else None,
        kept=index.vectors is not None,
    )


def _measured(index: Index, vectors: np.ndarray, sample: int, seconds: float, wanted: float | None) -> Measured:
    queries = noisy_rows(vectors, sample)
    truth = search_exact(vectors, queries, min(TOP, len(vectors))).rows
    return measured_with(index, queries, truth, seconds, wanted)
