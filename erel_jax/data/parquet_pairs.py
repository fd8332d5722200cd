"""Parquet tables of pictures and texts, as Hugging Face data sets are stored.

One row is a picture and a text, or a picture and a list of texts. The picture is a path like in the other tables, or
lies in the table itself: its encoded bytes, alone or beside a path. Such tables are large, so they are read a few
hundred rows at a time, first for the texts and the identity of every picture, later for the pictures themselves.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from erel_jax.data.pair_tables import IMAGE_COLUMNS, TEXT_COLUMNS, Pair, normalize_text
from erel_jax.errors import ConfigError, DataError

ROWS_AT_ONCE = 256


def read_parquet_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Read texts and identities of pictures of a Parquet table.

    Args:
        path: The file. One image column (`pair_tables.IMAGE_COLUMNS`): strings (paths), bytes, or structs with fields
            `bytes` and `path`. One text column (`pair_tables.TEXT_COLUMNS`): strings or lists of strings.

    Returns:
        A pair per text, in file order; `line` is the row from 1. A picture in the table is named by its digest, so that
        copies count as one picture; `row` says where it lies. A row without a picture keeps a name of its own, and
        reading it fails later as a missing picture.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: The file is damaged, has no rows, or lacks a column of a usable type.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    return list(_read(path, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)  # a run asks for the same table several times, and each answer reads it whole
def _read(path: Path, size: int, modified: int) -> tuple[Pair, ...]:
    file = open_parquet(path)
    names = {name.casefold(): name for name in file.schema_arrow.names}
    image, text = (_column(path, names, known) for known in (IMAGE_COLUMNS, TEXT_COLUMNS))
    _check_types(path, file.schema_arrow, image, text)
    pairs: list[Pair] = []
    for row, (value, texts) in enumerate(_cells(path, file, [image, text])):
        name, embedded = _identity(path, row, value)
        for one in texts if isinstance(texts, list) else [texts]:
            place = row if embedded else None
            pairs.append(Pair(line=row + 1, image=name, text=normalize_text(one or ""), row=place))
        if isinstance(texts, list) and not texts:
            pairs.append(Pair(line=row + 1, image=name, text="", row=row if embedded else None))
    if not pairs:
        raise DataError(f"{path}: the table has columns but no rows. Expected one row per picture.")
    return tuple(pairs)


def embedded_pictures(path: str | os.PathLike[str], rows: Iterable[int]) -> Iterator[bytes]:
    """Read pictures that lie in a table.

    Args:
        path: The file that `read_parquet_pairs` read.
        rows: Rows from 0, in ascending order; one may come several times.

    Yields:
        The encoded bytes of each row's picture, empty where there is none.
    """
    path, wanted = Path(path), list(rows)
    if not wanted:
        return
    file = open_parquet(path)
    names = {name.casefold(): name for name in file.schema_arrow.names}
    places = iter(wanted)
    place = next(places, None)
    for row, (value,) in enumerate(_cells(path, file, [_column(path, names, IMAGE_COLUMNS)])):
        while place == row:
            yield _content(value) or b""
            place = next(places, None)
        if place is None:
            return


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: the file is damaged.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow ({error}). Install it: pip install pyarrow") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise DataError(f"{path}: not a readable Parquet file ({error}). Download it again.") from error


def _column(path: Path, names: dict[str, str], known: tuple[str, ...]) -> str:
    for name in known:
        if name in names:
            return names[name]
    found = ", ".join(names.values()) or "none"
    raise DataError(f"{path}: got columns {found}, expected one of {', '.join(known)}. Rename the column.")


def _check_types(path: Path, schema: Any, image: str, text: str) -> None:
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind)

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    kind = schema.field(image).type
    fields = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
    if not (is_text(kind) or is_bytes(kind) or ("bytes" in fields and is_bytes(fields["bytes"]))):
        raise DataError(
            f"{path}: column {image!r} holds {kind}, expected paths (string), encoded pictures (binary) or structs "
            "with a binary field 'bytes'. Convert the column."
        )
    kind = schema.field(text).type
    inner = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
    if not is_text(inner):
        raise DataError(f"{path}: column {text!r} holds {kind}, expected strings or lists of strings.")


def _cells(path: Path, file: Any, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """The cells of the columns, row by row, in the order asked for."""
    try:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
    except (OSError, ValueError) as error:  # a damaged page; text that is not UTF-8
        raise DataError(f"{path}: damaged ({error}). Download it again.") from error


def _content(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value


def _identity(path: Path, row: int, value: Any) -> tuple[str, bool]:
    """A picture's name, and whether the table holds it."""
    stated = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
    content = None if isinstance(value, str) else _content(value)
    if content:
        return f"{stated or path.stem}#{hashlib.sha256(content).hexdigest()[:16]}", True
    if stated and stated.strip():
        return stated.strip(), False
    return f"{path.stem}#row{row + 1}", True
