"""What every engine offers, and what all of them check: the same ids, vectors, refusals and order of hits.

An engine holds vectors under ids of ours, whole numbers of 63 bits or texts, and gives them back as they are. Unlike an
`Index` it is changed in place, because stores on disk and servers are. What an engine can do beyond this (its index
types, its query language) is reached through its own object, which each class names.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from erel_jax.errors import ConfigError, DataError
from erel_jax.retrieval.checks import check_count
from erel_jax.retrieval.ids import MISSING_NUMBER, MISSING_TEXT, as_ids
from erel_jax.retrieval.index import Found
from erel_jax.retrieval.metric import check_same, prepared

Ids = Sequence[int] | Sequence[str] | np.ndarray
Payload = Mapping[str, Any]
"""What is kept beside a vector: field to text, number or truth value."""
Where = Mapping[str, Any]
"""Field to the value it must have, or to a list of values of which it must have one; all fields must fit."""

KEPT = ("width", "texts", "metric")
"""What a store says of itself and cannot change."""
SPARE = 16
"""Hits fetched beyond k, so that hits that tie at the end come out by id."""


class Engine(Protocol):
    """A place that holds vectors.

    Attributes:
        width: E of the vectors.
        texts: ids are texts, not numbers.
        metric: `inner_product` or `cosine`.
        made_by: fingerprint of the encoder, None where it was not said.
    """

    width: int
    texts: bool
    metric: str
    made_by: str | None

    def __len__(self) -> int:
        """Number of vectors."""
        ...

    def add(
        self, ids: Ids, vectors: np.ndarray, *, payloads: Sequence[Payload] | None = None, made_by: str | None = None
    ) -> None:
        """Adds vectors float[N, E]; raises `DataError` for an id that is there, `ConfigError` for what does not fit."""
        ...

    def delete(self, ids: Ids) -> None:
        """Removes ids; raises `DataError` for one that is not there."""
        ...

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        among: Ids | None = None,
        where: Where | None = None,
        made_by: str | None = None,
    ) -> Found:
        """The K best of each query, best first and ties by id, with -1 or "" in places without a hit."""
        ...

    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """What is kept beside each id; raises `DataError` for an unknown one."""
        ...

    def close(self) -> None:
        """Ends the use; what is stored stays."""
        ...


def door(package: str, extra: str) -> Any:
    """The package of an engine.

    Raises:
        ConfigError: it is not installed; says which extra to install.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"{package} is not installed ({error}). Run: pip install 'erel_jax[{extra}]'") from error


def checked_rows(
    engine: Engine, ids: Ids, vectors: np.ndarray, payloads: Sequence[Payload] | None, made_by: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64[N] or text[N] and vectors float32[N, E] that fit an engine.

    Raises:
        ConfigError, NonFiniteError: as `build_index` and `add`, or there is not a payload for each.
        DataError: an id occurs twice.
    """
    check_same(engine.made_by, made_by, "encoder")
    new = checked_ids(engine, ids)
    rows = prepared("vectors", vectors, engine.metric, engine.width)
    if len(new) != len(rows) or (payloads is not None and len(payloads) != len(new)):
        raise ConfigError(
            f"got {len(new)} ids, {len(rows)} vectors and {'no' if payloads is None else len(payloads)} payloads; "
            "expected one of each, or no payloads."
        )
    return new, np.ascontiguousarray(rows, np.float32)


def checked_ids(engine: Engine, ids: Ids) -> np.ndarray:
    """Ids of the kind that an engine holds.

    Raises:
        ConfigError: they are of the other kind, or no ids at all.
        DataError: an id occurs twice.
    """
    new = as_ids(ids)
    if (new.dtype.kind == "U") != engine.texts:
        raise ConfigError(f"got ids of {new.dtype}, but this engine holds {'texts' if engine.texts else 'numbers'}.")
    return new


def checked_queries(engine: Engine, queries: np.ndarray, k: int, made_by: str | None) -> np.ndarray:
    """Queries float32[Q, E] as the engine's metric scores them.

    Raises:
        ConfigError, NonFiniteError: as `search_index`.
    """
    check_same(engine.made_by, made_by, "encoder")
    check_count(k)
    return np.ascontiguousarray(prepared("queries", queries, engine.metric, engine.width), np.float32)


def check_kept(name: str, kept: Mapping[str, Any], wanted: Mapping[str, Any], *, fields: Sequence[str] = KEPT) -> None:
    """Refuses a store that was made for something else than is asked for.

    Args:
        name: of the store, for messages.
        kept: what it says of itself.
        wanted: what is asked for.
        fields: what must be the same.

    Raises:
        ConfigError: a field differs, or the encoders do.
    """
    check_same(kept["made_by"], wanted["made_by"], "encoder")
    for field in fields:
        if kept[field] != wanted[field]:
            raise ConfigError(f"{name} has {field}={kept[field]!r}, and this asks for {wanted[field]!r}.")


def refuse_known(known: np.ndarray, ids: np.ndarray) -> None:
    """Raises `DataError` if an id of `ids` is among the known ones."""
    twice = ids[np.isin(ids, known)]
    if len(twice):
        raise DataError(f"id {twice[0].item()!r} is there already ({len(twice)} of {len(ids)} are); delete it first.")


def refuse_unknown(known: np.ndarray, ids: np.ndarray) -> None:
    """Raises `DataError` if an id of `ids` is not among the known ones."""
    lacking = ids[~np.isin(ids, known)]
    if len(lacking):
        raise DataError(f"id {lacking[0].item()!r} is not in the index ({len(lacking)} of {len(ids)} are not).")


def found_of(per_query: Sequence[tuple[Sequence[Any], Sequence[float]]], k: int, texts: bool) -> Found:
    """Hits of each query as `Found`: by score, ties by id, filled up to K."""
    missing = MISSING_TEXT if texts else MISSING_NUMBER
    ids = np.full((len(per_query), k), missing, object if texts else np.int64)
    scores = np.full((len(per_query), k), -np.inf, np.float32)
    for row, (names, values) in enumerate(per_query):
        best = sorted(
            zip(np.asarray(values, np.float32).tolist(), names, strict=True), key=lambda hit: (-hit[0], hit[1])
        )
        for place, (score, name) in enumerate(best[:k]):
            ids[row, place], scores[row, place] = name, score
    return Found(ids=ids.astype(str) if texts else ids, scores=scores)
