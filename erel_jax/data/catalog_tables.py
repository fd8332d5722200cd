"""Rows of a person's table one after the other, whatever is wrong with some of them.

`pair_tables` reads a table for training and stops at its first fault. A catalog of millions of rows has faults, and its
embedding shall neither stop nor shift because of them: here every row comes out in its place, with what is wrong with
it said in `fault`. Rows are streamed, and reading can begin at any row whose place in the file is known.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from erel_jax.data.pair_tables import IMAGE_COLUMNS, PICTURE_SUFFIXES, TEXT_COLUMNS, normalize_text
from erel_jax.errors import ConfigError, DataError, suggest

ID_COLUMNS = ("id", "item_id", "key")
MAX_LINE_BYTES = 16 * 1024**2
MAX_ID_CHARACTERS = 512
csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # of the whole process; 128 KiB are a long text
NAME_COLUMNS = "Name yours with --image-key or --text-key, or write a header"
LOOKED_AT = 100
"""Objects of a JSON Lines file whose keys are looked at for columns."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a row begins: its number from 0, its line from 1 and, in text files, its byte."""

    number: int = 0
    line: int = 1
    byte: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a catalog.

    Attributes:
        place: where it begins.
        id: its id, "" where a fault hides it.
        image: name of its picture, or the encoded picture itself; None where there is none.
        text: its text with white space normalized, None where there is none.
        fault: what is wrong with the whole row, None for a sound one.
    """

    place: Place
    id: str = ""
    image: str | bytes | None = None
    text: str | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that are read, None for those that a table does not have.

    Attributes:
        id, image, text: names as the table spells them. Without an id column, rows are called by their number from 1.
    """

    id: str | None
    image: str | None
    text: str | None


def choose_columns(
    path: Path,
    names: Sequence[str],
    *,
    id_key: str | None,
    image_key: str | None,
    text_key: str | None,
    advice: str = NAME_COLUMNS,
) -> Columns:
    """Decides which columns are read.

    Args:
        path: the table, for messages.
        names: its columns.
        id_key, image_key, text_key: what a person named; None looks for a usual name.
        advice: what to do where there is no usual name.

    Raises:
        ConfigError: a named column does not exist.
        DataError: there is neither an image nor a text column, or one that is read is there twice.
    """
    folded = {name.strip().casefold(): name for name in names}

    def column(key: str | None, option: str, usual: Sequence[str]) -> str | None:
        if key is None:
            return next((folded[name] for name in usual if name in folded), None)
        if key not in names:
            raise ConfigError(f"{path} has no column {key!r} ({option}). {suggest(key, names)}")
        return key

    chosen = column(id_key, "--id-key", ID_COLUMNS)
    free = [name for name in TEXT_COLUMNS if name not in ID_COLUMNS and folded.get(name) != chosen]
    columns = Columns(
        id=chosen, image=column(image_key, "--image-key", IMAGE_COLUMNS), text=column(text_key, "--text-key", free)
    )
    if columns.image is None and columns.text is None:
        texts = ", ".join(name for name in TEXT_COLUMNS if name not in ID_COLUMNS)
        raise DataError(
            f"{path}: got columns {', '.join(names) or 'none'}, expected one of {', '.join(IMAGE_COLUMNS)} or of "
            f"{texts}. {advice}{_other_separator(path, names)}."
        )
    for name in (columns.id, columns.image, columns.text):
        if names.count(name) > 1:
            raise DataError(f"{path} has {names.count(name)} columns {name!r}, expected one. Rename the others.")
    return columns


def _other_separator(path: Path, names: Sequence[str]) -> str:
    wanted = {".csv": "comma", ".tsv": "tab"}.get(path.suffix.lower())
    used = next((sign for sign in ";\t,|" if len(names) == 1 and sign in names[0]), None)
    if wanted is None or used is None:
        return ""
    return f"; if {used!r} is meant to separate columns, write a {wanted} in its place"


def is_header(cells: Sequence[str]) -> bool:
    """Whether the first row of two columns names columns: it does unless its first cell is a picture's file name."""
    known = {cell.strip().casefold() for cell in cells} & {*ID_COLUMNS, *IMAGE_COLUMNS, *TEXT_COLUMNS}
    return bool(known) or not cells[0].strip().lower().endswith(PICTURE_SUFFIXES)


class TextTable:
    """Rows of a `.csv`, `.tsv` or `.jsonl` file.

    Args:
        path: the file, in UTF-8. Delimited files start with a header, or have two columns, image and text, and in the
            first row the name of a picture.
        id_key, image_key, text_key: columns, see `choose_columns`.

    Attributes:
        columns: the columns that are read.

    Raises:
        ConfigError, DataError: as `choose_columns`, or the file is missing or empty.
    """

    def __init__(
        self,
        path: Path,
        *,
        id_key: str | None,
        image_key: str | None,
        text_key: str | None,
        advice: str = NAME_COLUMNS,
    ) -> None:
        self.path = path
        self._suffix, self._advice = path.suffix.lower(), advice
        keys = {"id_key": id_key, "image_key": image_key, "text_key": text_key}
        self._names: list[str] = []
        self._start = Place()
        if self._suffix == ".jsonl":
            self.columns = choose_columns(path, self._object_names(), **keys, advice=advice)
        else:
            self.columns = self._read_header(keys)

    def rows(self, start: Place | None = None) -> Iterator[Row]:
        """Every row from a place on, in file order; blank lines are no rows.

        Raises:
            DataError: the file cannot be read.
        """
        place = start or self._start
        with _opened(self.path) as stream:
            lines = _Lines(stream, place)
            read = self._objects if self._suffix == ".jsonl" else self._delimited
            for number, (begun, values, fault) in enumerate(read(lines), place.number):
                at = Place(number=number, line=begun.line, byte=begun.byte)
                yield Row(place=at, fault=fault) if fault else make_row(at, self.columns, values)

    def _objects(self, lines: "_Lines") -> Iterator[tuple[Place, dict[str, Any], str | None]]:
        for line in lines.each():
            if lines.fault:
                yield lines.marked, {}, lines.fault
            elif line.strip():
                try:
                    value = json.loads(line)
                    fault = None if isinstance(value, dict) else f"a JSON {type(value).__name__}, expected an object"
                except (ValueError, RecursionError) as error:  # RecursionError: deeply nested brackets
                    value, fault = {}, f"not JSON ({error})"
                yield lines.marked, value, fault

    def _delimited(self, lines: "_Lines") -> Iterator[tuple[Place, dict[str, Any], str | None]]:
        for begun, cells, fault in self._cells(lines):
            if fault is None and len(cells) != len(self._names):
                fault = f"got {len(cells)} columns, expected {len(self._names)}"
            yield begun, dict(zip(self._names, cells, strict=False)), fault

    def _cells(self, lines: "_Lines") -> Iterator[tuple[Place, list[str], str | None]]:
        if self._suffix == ".tsv":
            for line in lines.each():
                if lines.fault or line.strip():
                    yield lines.marked, line.rstrip("\r\n").split("\t"), lines.fault
            return
        reader = csv.reader(lines, strict=True)
        while True:
            lines.mark()
            try:
                cells, fault = next(reader), lines.fault
            except StopIteration:
                return
            except csv.Error as error:
                # A quote that is never closed swallows the lines behind it: each gets a chance of its own.
                cells, fault = [], f"{error}; check the quotes of this row"
                lines.back_to_second()
                reader = csv.reader(lines, strict=True)
            if cells or fault:
                yield lines.marked, cells, fault

    def _read_header(self, keys: dict[str, str | None]) -> Columns:
        with _opened(self.path) as stream:
            lines = _Lines(stream, Place())
            _, cells, fault = next(self._cells(lines), (None, [], "the file is empty"))
            if fault:
                raise DataError(f"{self.path}, line 1: {fault}. Expected a header and one row per item.")
            after = Place(line=lines.line, byte=lines.byte)
        if len(cells) == 2 and not is_header(cells) and not any(keys.values()):
            self._names = ["image", "text"]
            return Columns(id=None, image="image", text="text")
        self._names, self._start = cells, after
        return choose_columns(self.path, cells, **keys, advice=self._advice)

    def _object_names(self) -> list[str]:
        names: dict[str, None] = {}
        with _opened(self.path) as stream:
            for _, value, fault in itertools.islice(self._objects(_Lines(stream, Place())), LOOKED_AT):
                names |= {} if fault else dict.fromkeys(value)
        if not names:
            raise DataError(f"{self.path}: no JSON object in its first lines. Expected one object per line.")
        return list(names)


def make_row(place: Place, columns: Columns, values: dict[str, Any]) -> Row:
    """A row from the values of its columns, or with a fault where they are of the wrong kind.

    Args:
        place: where it begins.
        columns: the columns that are read.
        values: values by column; of a list of texts the first is taken, of a struct its `bytes` or `path`.
    """
    name = values.get(columns.id) if columns.id else str(place.number + 1)
    if isinstance(name, bool) or not isinstance(name, str | int):
        return Row(place=place, fault=f"the id is {_kind(name)}, expected a text or a whole number")
    name = _sound(str(name).strip())
    if not name or len(name) > MAX_ID_CHARACTERS:
        return Row(place=place, fault=f"the id has {len(name)} characters, expected 1 to {MAX_ID_CHARACTERS}")
    if "\0" in name:  # NumPy drops it at the end of a text, and two ids would become one
        return Row(place=place, fault=f"the id {name!r} holds NUL, expected characters that can be written")
    image = values.get(columns.image) if columns.image else None
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    text = values.get(columns.text) if columns.text else None
    if isinstance(text, list):
        text = text[0] if text else None
    if not isinstance(image, str | bytes | None) or not isinstance(text, str | None):
        wrong = f"the image is {_kind(image)}" if not isinstance(image, str | bytes | None) else ""
        wrong = wrong or f"the text is {_kind(text)}"
        return Row(place=place, id=name, fault=f"{wrong}, expected a text")
    image = image.strip() if isinstance(image, str) else image
    return Row(place=place, id=name, image=image or None, text=None if text is None else normalize_text(text))


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def _sound(text: str) -> str:
    """The text without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path (--data).") from error


class _Lines:
    """Decoded lines of a file, with the place where the next one begins.

    Attributes:
        line, byte: place behind the last line given out.
        marked: where the row begins that `mark` announced.
        fault: what is wrong with a line of this row; the line is then empty.
    """

    def __init__(self, stream: BinaryIO, start: Place) -> None:
        self._stream = stream
        stream.seek(start.byte)
        self.line, self.byte = start.line, start.byte
        self.marked = start
        self.fault: str | None = None
        self._second: Place | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(MAX_LINE_BYTES)
        if not raw:
            raise StopIteration
        size = len(raw)
        if size == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (more := self._stream.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                size += len(more)
            size += len(more)
            raw, self.fault = b"", f"a line of more than {MAX_LINE_BYTES} bytes"
        if self.byte == 0:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        self.line, self.byte = self.line + 1, self.byte + size
        self._second = self._second or Place(line=self.line, byte=self.byte)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fault = f"not UTF-8 text ({error.reason})"
            return ""

    def each(self) -> Iterator[str]:
        """Lines that are rows of their own."""
        while True:
            self.mark()
            try:
                line = next(self)
            except StopIteration:
                return
            yield line

    def mark(self) -> None:
        """Says that a row begins here."""
        self.marked, self._second, self.fault = Place(line=self.line, byte=self.byte), None, None

    def back_to_second(self) -> None:
        """Goes back to the second line of the marked row, or stays behind its only one."""
        if self._second is not None:
            self.line, self.byte, self.fault = self._second.line, self._second.byte, None
            self._stream.seek(self.byte)
