"""LanceDB behind the functions of an index: a folder of columns, with payloads and filters, from its wheel alone.

Every change is on disk when the call returns. Search is exact until `engine.table.create_index(...)` makes an index of
LanceDB's own; scores are computed again from the stored vectors. Extra: `pip install 'erel_jax[lancedb]'`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.artifacts import write_text_atomic
from erel_jax.errors import ConfigError, CorruptArtifactError
from erel_jax.retrieval.engines.engine import (
    KEPT,
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

ABOUT, TABLE, ID, VECTOR = "erel.json", "vectors", "erel_id", "erel_vector"
FIELDS = {"text": str, "integer": int, "float": float, "truth": bool}
IDS_PER_CLAUSE = 1000


class LancedbEngine:
    """An `Engine` over a LanceDB table; made by `open_lancedb`.

    Attributes:
        table: LanceDB's own table.
        fields: payload field to `text`, `integer`, `float` or `truth`.
        width, texts, metric, made_by: see `Engine`.
    """

    def __init__(
        self, table: Any, *, width: int, texts: bool, fields: Mapping[str, str], metric: str, made_by: str | None
    ) -> None:
        self.table, self.fields = table, dict(fields)
        self.width, self.texts, self.metric, self.made_by = width, texts, metric, made_by

    def __len__(self) -> int:
        return self.table.count_rows()

    def add(
        self, ids: Ids, vectors: np.ndarray, *, payloads: Sequence[Payload] | None = None, made_by: str | None = None
    ) -> None:
        """See `Engine.add`; payload fields are those named when the store was made, left out ones are empty."""
        new, rows = checked_rows(self, ids, vectors, payloads, made_by)
        for payload in payloads or ():
            for name, value in payload.items():
                if name not in self.fields or (value is not None and type(value) is not FIELDS[self.fields[name]]):
                    raise ConfigError(f"payload field {name!r} holds {value!r}, expected one of {self.fields}.")
        refuse_known(self._known(new), new)
        pyarrow, schema = door("pyarrow", "lancedb"), self.table.schema
        values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), self.width)
        columns = {ID: pyarrow.array(new.tolist(), schema.field(ID).type), VECTOR: values}
        for name in self.fields:
            given = [payload.get(name) for payload in payloads or [{}] * len(new)]
            columns[name] = pyarrow.array(given, schema.field(name).type)
        self.table.add(pyarrow.table(columns, schema=schema))

    def delete(self, ids: Ids) -> None:
        """See `Engine.delete`."""
        gone = checked_ids(self, ids)
        refuse_unknown(self._known(gone), gone)
        for clause in _clauses(gone):
            self.table.delete(clause)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        among: Ids | None = None,
        where: Where | None = None,
        made_by: str | None = None,
    ) -> Found:
        """See `Engine.search`."""
        asked = checked_queries(self, queries, k, made_by)
        conditions = [self._condition(name, value) for name, value in (where or {}).items()]
        if among is not None:
            chosen = checked_ids(self, among)
            refuse_unknown(self._known(chosen), chosen)
            conditions.append(f"({' OR '.join(_clauses(chosen))})")
        hits = []
        for query in asked:
            search = self.table.search(query, vector_column_name=VECTOR).distance_type("dot")
            if conditions:
                search = search.where(" AND ".join(conditions), prefilter=True)
            found = search.select([ID, VECTOR]).limit(k + SPARE).to_arrow()
            near = np.asarray(found.column(VECTOR).to_pylist(), np.float32).reshape(-1, self.width)
            hits.append((found.column(ID).to_pylist(), near @ query))
        return found_of(hits, k, self.texts)

    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """See `Engine.payloads`; fields without a value are left out."""
        wanted, found = checked_ids(self, ids), {}
        for clause in _clauses(wanted):
            for row in self.table.search().where(clause).select([ID, *self.fields]).limit(len(wanted)).to_list():
                found[row[ID]] = {name: row[name] for name in self.fields if row[name] is not None}
        refuse_unknown(np.array([*found], wanted.dtype), wanted)
        return [found[name] for name in wanted.tolist()]

    def close(self) -> None:
        """See `Engine.close`."""

    def _known(self, ids: np.ndarray) -> np.ndarray:
        found = []
        for clause in _clauses(ids):
            found += self.table.search().where(clause).select([ID]).limit(len(ids)).to_arrow().column(ID).to_pylist()
        return np.array(found, ids.dtype)

    def _condition(self, name: str, value: Any) -> str:
        if name not in self.fields:
            raise ConfigError(f"there is no payload field {name!r}, expected one of {self.fields}.")
        values = value if isinstance(value, list | tuple) else [value]
        return f"`{name}` IN ({', '.join(map(_literal, values))})" if values else "FALSE"


def open_lancedb(
    folder: str | os.PathLike[str],
    *,
    width: int,
    texts: bool = False,
    fields: Mapping[str, str] | None = None,
    metric: str = INNER_PRODUCT,
    made_by: str | None = None,
) -> LancedbEngine:
    """Opens the store in a folder, or makes one.

    Args:
        folder: the store's directory.
        width: E of the vectors.
        texts: ids are texts, not whole numbers.
        fields: payload field to `text`, `integer`, `float` or `truth`; an existing store keeps its own when None.
        metric, made_by: as in `build_index`; the store remembers them.

    Raises:
        ConfigError: LanceDB is not installed, or the store is of another width, kind of ids, metric or encoder.
        CorruptArtifactError: what describes the store cannot be read.
    """
    lancedb, pyarrow = door("lancedb", "lancedb"), door("pyarrow", "lancedb")
    check_metric(metric)
    unknown = sorted(set((fields or {}).values()) - set(FIELDS))
    unfit = [name for name in fields or {} if not name.isidentifier() or name in (ID, VECTOR)]
    if width < 1 or unknown or unfit:
        raise ConfigError(
            f"width is {width}, fields are {fields}; expected 1 or more, names, and kinds of {[*FIELDS]}."
        )
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    wanted = {"width": width, "texts": texts, "fields": dict(fields or {}), "metric": metric, "made_by": made_by}
    database = lancedb.connect(path)
    if not (path / ABOUT).exists():
        types = {
            "text": pyarrow.string(),
            "integer": pyarrow.int64(),
            "float": pyarrow.float64(),
            "truth": pyarrow.bool_(),
        }
        columns = [
            pyarrow.field(ID, pyarrow.string() if texts else pyarrow.int64()),
            pyarrow.field(VECTOR, pyarrow.list_(pyarrow.float32(), width)),
            *(pyarrow.field(name, types[kind]) for name, kind in wanted["fields"].items()),
        ]
        table = database.create_table(TABLE, schema=pyarrow.schema(columns), mode="overwrite")
        # Written last: a store without it was not finished.
        write_text_atomic(path / ABOUT, json.dumps(wanted))
        return LancedbEngine(table, **wanted)
    try:
        about = json.loads((path / ABOUT).read_text("utf-8"))
        kept = {name: about[name] for name in wanted}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(f"{path / ABOUT} cannot be read ({error}). Make the store again.") from error
    check_kept(str(folder), kept, wanted, fields=KEPT if fields is None else (*KEPT, "fields"))
    return LancedbEngine(database.open_table(TABLE), **kept)


def _clauses(ids: np.ndarray) -> list[str]:
    starts = range(0, len(ids), IDS_PER_CLAUSE)
    return [f"{ID} IN ({', '.join(map(_literal, ids[at : at + IDS_PER_CLAUSE].tolist()))})" for at in starts]


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int | float):
        return repr(value)
    raise ConfigError(f"a filter asks for {value!r}, expected a text, a number or a truth value.")
