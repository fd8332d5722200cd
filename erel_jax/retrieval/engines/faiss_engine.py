"""faiss behind the functions of an index: any index type of its factory, with ids of ours, deletion and filters.

faiss numbers rows; this keeps the ids beside them. It holds no payloads. `engine.index` is the faiss index, for
parameters such as `engine.index.nprobe`. Extra: `pip install 'erel_jax[faiss]'`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.artifacts import ArtifactDir, Verify, verify_manifest
from erel_jax.errors import ConfigError
from erel_jax.retrieval.engines.engine import (
    SPARE,
    Ids,
    Payload,
    Where,
    checked_ids,
    checked_queries,
    checked_rows,
    door,
    found_of,
    refuse_known,
)
from erel_jax.retrieval.ids import as_ids, rows_of
from erel_jax.retrieval.index import Found
from erel_jax.retrieval.metric import INNER_PRODUCT, check_metric
from erel_jax.retrieval.writer import only_writer

KIND = "faiss-index"


class FaissEngine:
    """An `Engine` over a faiss index; made by `build_faiss` and `load_faiss`.

    Attributes:
        index: faiss' own index, its rows in the order of `ids`.
        ids: int64[N] or text[N], deleted ones included.
        alive: bool[N].
        factory: what faiss made the index from.
        width, texts, metric, made_by: see `Engine`.
    """

    def __init__(
        self, index: Any, ids: np.ndarray, alive: np.ndarray, *, factory: str, metric: str, made_by: str | None
    ) -> None:
        self.index, self.ids, self.alive = index, ids, alive
        self.factory, self.metric, self.made_by = factory, metric, made_by
        self.width, self.texts = int(index.d), ids.dtype.kind == "U"

    def __len__(self) -> int:
        return int(self.alive.sum())

    def add(
        self, ids: Ids, vectors: np.ndarray, *, payloads: Sequence[Payload] | None = None, made_by: str | None = None
    ) -> None:
        """See `Engine.add`; payloads are refused."""
        _refuse_payloads(payloads)
        new, rows = checked_rows(self, ids, vectors, None, made_by)
        refuse_known(self.ids[self.alive], new)
        self.index.add(rows)
        self.ids = np.concatenate([self.ids, new])
        self.alive = np.concatenate([self.alive, np.ones(len(new), bool)])

    def delete(self, ids: Ids) -> None:
        """See `Engine.delete`; rows are masked, as not every faiss index can remove them."""
        self.alive[self._rows(ids)] = False

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        among: Ids | None = None,
        where: Where | None = None,
        made_by: str | None = None,
    ) -> Found:
        """See `Engine.search`; `where` is refused, name ids with `among`."""
        _refuse_payloads(where)
        asked = checked_queries(self, queries, k, made_by)
        allowed = self.alive
        if among is not None:
            allowed = np.zeros(len(self.ids), bool)
            allowed[self._rows(among)] = True
        wanted = max(1, min(k + SPARE, int(allowed.sum())))
        scores, rows = self._found(asked, wanted, allowed)
        hits = []
        for values, places in zip(scores, rows, strict=True):
            real = (places >= 0) & allowed[np.maximum(places, 0)]
            hits.append((self.ids[places[real]].tolist(), values[real]))
        return found_of(hits, k, self.texts)

    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """See `Engine.payloads`; always empty here."""
        return [{} for _ in self._rows(ids)]

    def close(self) -> None:
        """See `Engine.close`; what was not saved is gone."""

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes a folder with checksums, under the lock of `writing`.

        Raises:
            ConfigError: the directory exists and `overwrite` is false, or somebody else writes to it.
        """
        metadata = {"factory": self.factory, "metric": self.metric, "made_by": self.made_by}
        with (
            only_writer(folder),
            ArtifactDir(folder, kind=KIND, metadata=metadata, overwrite=overwrite) as artifact,
        ):
            np.save(artifact.file("ids.npy"), self.ids, allow_pickle=False)
            np.save(artifact.file("alive.npy"), self.alive, allow_pickle=False)
            np.save(artifact.file("index.npy"), door("faiss", "faiss").serialize_index(self.index), allow_pickle=False)

    def _rows(self, ids: Ids) -> np.ndarray:
        present = np.flatnonzero(self.alive)
        return present[rows_of(self.ids[present], checked_ids(self, ids))]

    def _found(self, asked: np.ndarray, wanted: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if allowed.all():
            return self.index.search(asked, wanted)
        try:
            return self.index.search(asked, wanted, params=self._only(allowed))
        except RuntimeError:
            # Not every type can leave rows out while it searches, and none says so beforehand.
            parts = [self._beyond(one, wanted, allowed) for one in asked]
        return np.stack([scores for scores, _ in parts]), np.stack([rows for _, rows in parts])

    def _beyond(self, query: np.ndarray, wanted: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows [wanted] of one query: as many hits as it takes until enough of them are allowed."""
        reach = min(4 * wanted, len(self.ids))
        while True:
            scores, rows = (side[0] for side in self.index.search(query[None], reach))
            real = np.flatnonzero((rows >= 0) & allowed[np.maximum(rows, 0)])[:wanted]
            if len(real) == wanted or rows[-1] < 0 or reach == len(self.ids):
                missing = wanted - len(real)
                return np.pad(scores[real], (0, missing)), np.pad(rows[real], (0, missing), constant_values=-1)
            reach = min(4 * reach, len(self.ids))

    def _only(self, allowed: np.ndarray) -> Any:
        faiss = door("faiss", "faiss")
        chosen = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        inner = faiss.downcast_index(self.index)
        if isinstance(inner, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=chosen, nprobe=inner.nprobe)
        if isinstance(inner, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(sel=chosen, efSearch=inner.hnsw.efSearch)
        return faiss.SearchParameters(sel=chosen)


def build_faiss(
    ids: Ids,
    vectors: np.ndarray,
    *,
    factory: str = "Flat",
    metric: str = INNER_PRODUCT,
    made_by: str | None = None,
    sample: int = 100_000,
) -> FaissEngine:
    """A faiss index over vectors, trained on some of them where its type needs that.

    Args:
        ids: N whole numbers from 0 or texts, each once.
        vectors: float[N, E].
        factory: faiss' description of an index, e.g. `Flat`, `SQ8`, `IVF1024,PQ32`, `HNSW32`.
        metric, made_by: as in `build_index`.
        sample: rows to train with, drawn with a fixed seed.

    Raises:
        ConfigError: faiss is not installed, or cannot make such an index of these vectors; else as `build_index`.
    """
    faiss = door("faiss", "faiss")
    check_metric(metric)
    ids, width = as_ids(ids), np.shape(vectors)[-1]
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(f"faiss cannot make {factory!r} of width {width}: {error}") from error
    engine = FaissEngine(index, ids[:0], np.zeros(0, bool), factory=factory, metric=metric, made_by=made_by)
    new, rows = checked_rows(engine, ids, vectors, None, made_by)
    try:
        if not index.is_trained:
            chosen = np.random.default_rng(0).permutation(len(rows))[:sample]
            index.train(rows[np.sort(chosen)])
        engine.add(new, rows)
    except RuntimeError as error:
        raise ConfigError(f"faiss cannot make {factory!r} of {len(rows)} vectors: {error}") from error
    return engine


def load_faiss(folder: str | os.PathLike[str], *, verify: Verify = "auto") -> FaissEngine:
    """Opens what `FaissEngine.save` wrote.

    Raises:
        ConfigError: faiss is not installed.
        CorruptArtifactError: a file is missing or damaged, or the folder holds something else.
    """
    faiss, root = door("faiss", "faiss"), Path(folder)
    about = verify_manifest(folder, verify, kind=KIND).metadata
    ids, alive, data = (np.load(root / f"{name}.npy", allow_pickle=False) for name in ("ids", "alive", "index"))
    return FaissEngine(faiss.deserialize_index(data), ids, alive, **about)


def _refuse_payloads(given: object) -> None:
    if given is not None:
        raise ConfigError("faiss keeps no payloads; take LanceDB or Qdrant for them, or name ids with among=.")
