"""What a person wants embedded: a folder or archive of pictures, or a table of pictures and texts.

    source = open_source("shop.csv")
    found = scan(source, every=4096)
    for row in source.rows(found.places[3]):
        ...

A scan reads the source once: it counts rows, finds ids that occur twice, remembers where every 4096th row begins, and
takes a fingerprint by which another process or a later day recognizes the same source.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.data.catalog_tables import NAME_COLUMNS, Columns, Place, Row, TextTable, choose_columns, make_row
from erel_jax.data.image_sources import Pictures
from erel_jax.data.pair_tables import PICTURE_SUFFIXES, SUFFIXES, find_table, tables_of
from erel_jax.data.parquet_pairs import ROWS_AT_ONCE, open_parquet
from erel_jax.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one pass over a source shows.

    Attributes:
        rows: number of rows, sound or not.
        places: where rows 0, every, 2 · every, … begin.
        fingerprint: SHA-256 of the table; of a folder or archive, of the names and sizes of its pictures.
    """

    rows: int
    places: tuple[Place, ...]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows that can be read from any place on.

    Attributes:
        path: the table, folder or archive.
        kind: "pictures", "csv", "tsv", "jsonl" or "parquet".
        columns: what a table's columns are called; those of "pictures" have an image alone.
        images: folder or archive of the pictures that rows name.
        names: names of the pictures, where there is no table.
        ignored: files beside them that are no pictures.
        hidden: files and folders beside them whose names begin with a dot; they are passed over.
        linked: folders beside them that are symbolic links; they are not entered.
        opened: what the table's file looked like before anything was read from it.
    """

    path: Path
    kind: str
    columns: Columns
    images: Path
    names: tuple[str, ...] = field(default=(), repr=False)
    ignored: int = 0
    hidden: int = 0
    linked: tuple[str, ...] = field(default=(), repr=False)
    opened: tuple[int, ...] = field(default=(), repr=False)
    table: Any = field(default=None, repr=False)

    def rows(self, start: Place | None = None, *, ids_alone: bool = False) -> Iterator[Row]:
        """Every row from a place on, in order.

        Args:
            start: where to begin; None for the first row.
            ids_alone: leave pictures and texts out where that saves reading them.

        Raises:
            DataError: the table cannot be read on.
        """
        if self.kind == "pictures":
            first = start.number if start else 0
            for number in range(first, len(self.names)):
                name = self.names[number]
                strange = name != name.encode("utf-8", "replace").decode("utf-8")
                fault = "the file name is not UTF-8" if strange else None
                yield Row(
                    place=Place(number=number, line=number + 1), id="" if fault else name, image=name, fault=fault
                )
        elif self.kind == "parquet":
            yield from _parquet_rows(self.path, self.columns, start, ids_alone)
        else:
            yield from self.table.rows(start)

    def pictures(self) -> Pictures:
        """The pictures that rows name.

        Raises:
            DataError: their folder or archive is not there.
        """
        return Pictures(self.images, listed=self.kind == "pictures")

    def remarks(self) -> list[str]:
        """A sentence about each kind of thing that lies there and is no row."""
        found = []
        if self.ignored:
            found.append(f"{self.ignored:,} files beside the pictures are no pictures and are ignored.")
        if self.hidden:
            found.append(f"{self.hidden:,} hidden files and folders (.name) are passed over.")
        if self.linked:
            found.append(
                f"{len(self.linked):,} folders are symbolic links, such as {self.linked[0]!r}, and are not entered. "
                "To have their pictures too, put the folders themselves in place of the links."
            )
        return found

    def line(self, place: Place) -> str:
        """How a person finds a row: its line, its row in a Parquet table, or its place among the pictures."""
        return f"{'line' if self.kind in ('csv', 'tsv', 'jsonl') else 'row'} {place.line}"

    @property
    def is_as_opened(self) -> bool:
        """Whether a table is still the file that was opened, as far as shows without reading it."""
        return not self.opened or _look(self.path) == self.opened

    def fingerprint(self) -> str:
        """See `Scan.fingerprint`.

        Raises:
            DataError: the table cannot be read.
        """
        digest = hashlib.sha256()
        if self.kind != "pictures":
            try:
                with open(self.path, "rb") as stream:
                    return hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read ({error.strerror}). Check the path (--data).") from error
        with self.pictures() as pictures:
            for name in self.names:
                try:
                    size = pictures.stamp(name).split()[0]
                except DataError:  # it leads out of the folder: the row is left out when its turn comes
                    size = "refused"
                digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def open_source(
    data: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    id_key: str | None = None,
    image_key: str | None = None,
    text_key: str | None = None,
    advice: str = NAME_COLUMNS,
) -> Source:
    """Finds out what a person means by a path.

    Args:
        data: a `.csv`, `.tsv`, `.jsonl` or `.parquet` table; a folder with one of them, or else with pictures at any
            depth; a zip archive of pictures.
        images: folder or zip archive of the pictures that a table names; the table's folder when None.
        id_key, image_key, text_key: columns of a table; None looks for usual names.
        advice: what to do about a table without usual names, for messages.

    Raises:
        ConfigError: a named column does not exist, or columns are named without a table.
        DataError: nothing usable is there.
    """
    path, keys = Path(data), {"id_key": id_key, "image_key": image_key, "text_key": text_key}
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder. Expected a table ({', '.join(SUFFIXES)}), or a folder or zip of pictures."
        )
    archive = path.is_file() and path.suffix.lower() == ".zip"
    has_table = path.is_dir() and bool(tables_of(path))
    if archive or (path.is_dir() and not has_table):
        if images is not None or any(keys.values()):
            raise ConfigError(f"{path} holds pictures and no table, so --images and columns mean nothing. Leave them.")
        return _pictures(path)
    table = find_table(path)
    root = table.parent if images is None else Path(images)
    kind, opened = table.suffix.lower()[1:], _look(table)
    if kind == "parquet":
        names = open_parquet(table).schema_arrow.names
        columns = choose_columns(table, names, **keys, advice=advice)
        return Source(path=table, kind=kind, columns=columns, images=root, opened=opened)
    read = TextTable(table, **keys, advice=advice)
    return Source(path=table, kind=kind, columns=read.columns, images=root, opened=opened, table=read)


def _look(table: Path) -> tuple[int, ...]:
    try:
        status = table.stat()
    except OSError:
        return (-1,)
    return status.st_size, status.st_mtime_ns, status.st_ino


def scan(source: Source, every: int) -> Scan:
    """Reads a source once.

    Args:
        source: from `open_source`.
        every: distance of the places that are remembered.

    Raises:
        DataError: there are no rows, two rows have the same id (names both lines), or the table changed meanwhile.
    """
    places: list[Place] = []
    digests: list[np.ndarray] = []
    pending: list[bytes] = []
    rows = 0
    for row in source.rows(ids_alone=True):
        if rows % every == 0:
            places.append(row.place)
        rows += 1
        if row.fault:
            continue
        pending.append(hashlib.blake2b(row.id.encode(), digest_size=8).digest())
        if len(pending) == 2**16:
            digests.append(np.frombuffer(b"".join(pending), np.uint64))
            pending.clear()
    if not rows:
        raise DataError(f"{source.path}: nothing to embed. Expected at least one row or picture.")
    digests.append(np.frombuffer(b"".join(pending), np.uint64))
    values, counts = np.unique(np.concatenate(digests), return_counts=True)
    if (counts > 1).any():
        _refuse_duplicates(source, set(values[counts > 1].tolist()))
    found = Scan(rows=rows, places=tuple(places), fingerprint=source.fingerprint())
    if not source.is_as_opened:
        raise DataError(f"the table changed while it was read: {source.path}. Expected it to stay; run again.")
    return found


def _refuse_duplicates(source: Source, suspects: set[int]) -> None:
    """Looks again at the rows whose ids seem to occur twice, by the ids themselves."""
    lines: dict[str, str] = {}
    advice = "rename the other" if source.kind == "pictures" else "remove one row, or name another column with --id-key"
    for row in source.rows(ids_alone=True):
        digest = hashlib.blake2b(row.id.encode(), digest_size=8).digest()
        if row.fault or int(np.frombuffer(digest, np.uint64)[0]) not in suspects:
            continue
        if row.id in lines:
            raise DataError(
                f"{source.path}: id {row.id!r} stands in {lines[row.id]} and again in {source.line(row.place)}. "
                f"Expected each id once; {advice}."
            )
        lines[row.id] = source.line(row.place)


def _pictures(path: Path) -> Source:
    names, linked, hidden = [], [], 0
    if path.is_dir():
        for folder, folders, files in os.walk(path):
            seen = sorted(name for name in folders if not name.startswith("."))
            below = Path(folder).relative_to(path)
            linked += [(below / name).as_posix() for name in seen if os.path.islink(os.path.join(folder, name))]
            shown = [name for name in files if not name.startswith(".")]
            hidden += len(folders) - len(seen) + len(files) - len(shown)
            names += [(below / name).as_posix() for name in shown]
            folders[:] = seen
    else:
        with Pictures(path) as pictures:
            members = pictures.names()
        # Such as the `__MACOSX/._a.png` that a Mac puts beside each `a.png`.
        names = [name for name in members if not any(map(_is_hidden, name.split("/")))]
        hidden = len(members) - len(names)
    wanted = sorted(name for name in names if name.lower().endswith(PICTURE_SUFFIXES))
    ignored = len(names) - len(wanted)
    if not wanted:
        raise DataError(
            f"{path}: neither a table ({', '.join(SUFFIXES)}) nor pictures ({', '.join(PICTURE_SUFFIXES)}) in it."
        )
    return Source(
        path=path,
        kind="pictures",
        columns=Columns(id=None, image="name", text=None),
        images=path,
        names=tuple(wanted),
        ignored=ignored,
        hidden=hidden,
        linked=tuple(sorted(linked)),
    )


def _is_hidden(part: str) -> bool:
    return part.startswith(".") and part not in (".", "..")


def _parquet_rows(path: Path, columns: Columns, start: Place | None, ids_alone: bool) -> Iterator[Row]:
    """Rows of a Parquet table; row groups before the first wanted row are not read."""
    file, first = open_parquet(path), start.number if start else 0
    wanted = (columns.id,) if ids_alone else (columns.id, columns.image, columns.text)
    names = [name for name in dict.fromkeys(wanted) if name] or [columns.text or columns.image or ""]
    groups, begin, number = [], 0, None
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if begin + size > first:
            groups.append(group)
            number = begin if number is None else number
        begin += size
    number = number or 0
    try:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names, row_groups=groups):
            parts = [_values(batch.column(name)) for name in names]
            for cells in zip(*parts, strict=True):
                if number >= first:
                    place = Place(number=number, line=number + 1)
                    fault = next((cell for cell in cells if isinstance(cell, UnicodeDecodeError)), None)
                    if fault is not None:
                        yield Row(place=place, fault=f"not UTF-8 text ({fault.reason})")
                    else:
                        yield make_row(place, columns, dict(zip(names, cells, strict=True)))
                number += 1
    except (OSError, ValueError) as error:  # a damaged page
        raise DataError(f"{path}, after row {number}: damaged ({error}). Download it again.") from error


def _values(column: Any) -> list[Any]:
    """The cells of an Arrow column; in place of one that is not UTF-8, what is wrong with it."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(cell) for cell in column]


def _value(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return error
