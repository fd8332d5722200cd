"""Qdrant behind the functions of an index: a server or cluster by its address, or embedded in this process.

Qdrant takes whole numbers or UUIDs as ids: numbers go as they are, texts become the UUID of their name and travel as
they are in the payload. Payloads and filters are Qdrant's own. `engine.client` is its client. Extra:
`pip install 'erel_jax[qdrant]'`.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.retrieval.engines.engine import (
    SPARE,
    Ids,
    Payload,
    Where,
    check_kept,
    checked_ids,
    checked_queries,
    checked_rows,
    door,
    found_of,
    refuse_known,
    refuse_unknown,
)
from erel_jax.retrieval.index import Found
from erel_jax.retrieval.metric import INNER_PRODUCT, check_metric

NAMES = uuid.UUID("5f0c2f0e-7a7c-5a53-9c0e-2f1b6f3f8a11")
"""Name space of the UUIDs of text ids; changing it loses what is stored."""
ID, PAYLOAD = "erel_id", "payload"
ROWS_PER_REQUEST = 512


class QdrantEngine:
    """An `Engine` over a Qdrant collection; made by `open_qdrant`.

    Attributes:
        client: Qdrant's own client.
        collection: name of the collection.
        width, texts, metric, made_by: see `Engine`.
    """

    def __init__(
        self, client: Any, collection: str, *, width: int, texts: bool, metric: str, made_by: str | None
    ) -> None:
        self.client, self.collection = client, collection
        self.width, self.texts, self.metric, self.made_by = width, texts, metric, made_by

    def __len__(self) -> int:
        return self.client.count(self.collection, exact=True).count

    def add(
        self, ids: Ids, vectors: np.ndarray, *, payloads: Sequence[Payload] | None = None, made_by: str | None = None
    ) -> None:
        """See `Engine.add`."""
        new, rows = checked_rows(self, ids, vectors, payloads, made_by)
        refuse_known(self._known(new), new)
        models = door("qdrant_client.models", "qdrant")
        kept = payloads or [{}] * len(new)
        points = [
            models.PointStruct(id=_point(name), vector=row.tolist(), payload={ID: name, PAYLOAD: dict(payload)})
            for name, row, payload in zip(new.tolist(), rows, kept, strict=True)
        ]
        for start in range(0, len(points), ROWS_PER_REQUEST):
            self.client.upsert(self.collection, points[start : start + ROWS_PER_REQUEST], wait=True)

    def delete(self, ids: Ids) -> None:
        """See `Engine.delete`."""
        gone = checked_ids(self, ids)
        refuse_unknown(self._known(gone), gone)
        self.client.delete(self.collection, points_selector=[_point(name) for name in gone.tolist()], wait=True)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        among: Ids | None = None,
        where: Where | None = None,
        made_by: str | None = None,
    ) -> Found:
        """See `Engine.search`; a server searches its own graph index, so its hits may be approximate."""
        asked = checked_queries(self, queries, k, made_by)
        models = door("qdrant_client.models", "qdrant")
        conditions: list[Any] = [
            models.FieldCondition(key=f"{PAYLOAD}.{name}", match=_match(models, value))
            for name, value in (where or {}).items()
        ]
        if among is not None:
            chosen = checked_ids(self, among)
            refuse_unknown(self._known(chosen), chosen)
            conditions.append(models.HasIdCondition(has_id=[_point(name) for name in chosen.tolist()]))
        only = models.Filter(must=conditions) if conditions else None
        requests = [
            models.QueryRequest(query=query.tolist(), filter=only, limit=k + SPARE, with_payload=[ID])
            for query in asked
        ]
        hits = []
        for start in range(0, len(requests), ROWS_PER_REQUEST):
            for found in self.client.query_batch_points(self.collection, requests[start : start + ROWS_PER_REQUEST]):
                hits.append(([point.payload[ID] for point in found.points], [point.score for point in found.points]))
        return found_of(hits, k, self.texts)

    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """See `Engine.payloads`."""
        wanted = checked_ids(self, ids)
        found = {point.payload[ID]: point.payload[PAYLOAD] for point in self._points(wanted, True)}
        refuse_unknown(np.array([*found], wanted.dtype), wanted)
        return [found[name] for name in wanted.tolist()]

    def close(self) -> None:
        """See `Engine.close`."""
        self.client.close()

    def _known(self, ids: np.ndarray) -> np.ndarray:
        return np.array([point.payload[ID] for point in self._points(ids, [ID])], ids.dtype)

    def _points(self, ids: np.ndarray, payload: Any) -> list[Any]:
        names = [_point(name) for name in ids.tolist()]
        found: list[Any] = []
        for start in range(0, len(names), ROWS_PER_REQUEST):
            part = names[start : start + ROWS_PER_REQUEST]
            found += self.client.retrieve(self.collection, ids=part, with_payload=payload)
        return found


def open_qdrant(
    location: str,
    collection: str,
    *,
    width: int,
    texts: bool = False,
    metric: str = INNER_PRODUCT,
    made_by: str | None = None,
    **client: Any,
) -> QdrantEngine:
    """Opens a collection, or makes one.

    Args:
        location: address of a server (`http://…`), `:memory:`, or a folder for Qdrant embedded in this process.
        collection: its name.
        width: E of the vectors.
        texts: ids are texts, not whole numbers.
        metric, made_by: as in `build_index`; the collection remembers them.
        client: further arguments of `qdrant_client.QdrantClient`, such as `api_key` and `prefer_grpc`.

    Raises:
        ConfigError: the client is not installed, the folder is in use, or the collection is of another width, kind of
            ids, metric or encoder, or was not made here.
    """
    qdrant, models = door("qdrant_client", "qdrant"), door("qdrant_client.models", "qdrant")
    check_metric(metric)
    if width < 1:
        raise ConfigError(f"width is {width}, expected at least 1.")
    place = "url" if "://" in location else "location" if location == ":memory:" else "path"
    try:
        opened = qdrant.QdrantClient(**{place: location}, **client)
    except RuntimeError as error:
        raise ConfigError(f"{location} cannot be opened: {error} Close the other one, or run a server.") from error
    wanted = {"width": width, "texts": texts, "metric": metric, "made_by": made_by}
    if not opened.collection_exists(collection):
        # Vectors come normalized where the metric is cosine, and ours are the only ones there.
        shape = models.VectorParams(size=width, distance=models.Distance.DOT)
        opened.create_collection(collection, vectors_config=shape, metadata={"erel": wanted})
        return QdrantEngine(opened, collection, **wanted)
    try:
        kept = (opened.get_collection(collection).config.metadata or {}).get("erel")
        if kept is None:
            raise ConfigError(f"collection {collection!r} was not made here: it does not say what it holds.")
        check_kept(repr(collection), kept, wanted)
    except ConfigError:
        opened.close()
        raise
    return QdrantEngine(opened, collection, **kept)


def _point(name: int | str) -> int | str:
    return str(uuid.uuid5(NAMES, name)) if isinstance(name, str) else name


def _match(models: Any, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return models.MatchAny(any=list(value))
    return models.MatchValue(value=value)
