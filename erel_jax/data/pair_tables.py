"""Tables of a person's own pictures and texts.

A retrieval data set of one's own is a table with one row per picture: the path of the picture and a text. Comma- and
tab-separated files and JSON Lines are read, with or without a header, and Parquet (see `parquet_pairs`); a folder is
accepted when it holds exactly one such table. Everything that is wrong with a row is reported with file and line.
"""

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

from erel_jax.data.images import FORMATS
from erel_jax.data.sequences import read_lines
from erel_jax.errors import DataError

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_path", "path")
TEXT_COLUMNS = ("text", "caption", "title", "name", "item", "item_id")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
assert len(FORMATS) == 7, "a format that is decoded needs its suffixes above"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One row of a table.

    Attributes:
        line: Line of the file, or row of a Parquet table, from 1.
        image: Path of the picture as written in the table; its name where the table holds the picture itself.
        text: Its text, with white space normalized; may be empty.
        row: Row from 0 of a Parquet table that holds the picture itself, otherwise None.
    """

    line: int
    image: str
    text: str
    row: int | None = None


def find_table(path: str | os.PathLike[str]) -> Path:
    """Find the table that a person means.

    Args:
        path: A `.csv`, `.tsv`, `.jsonl` or `.parquet` file, or a folder with exactly one of them.

    Returns:
        The path of the table.

    Raises:
        DataError: There is none, more than one, or the file has another suffix.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Expected a table ({', '.join(SUFFIXES)}) of pictures.")
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: unknown kind of table, expected one of {', '.join(SUFFIXES)}. Rename or convert.")
        return path
    tables = tables_of(path)
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables) or "none"
        raise DataError(
            f"{path}: expected exactly one table ({', '.join(SUFFIXES)}) beside the pictures, found {found}. "
            "Name the table itself."
        )
    return tables[0]


def tables_of(folder: Path) -> list[Path]:
    """Tables directly in a folder, by name; hidden files, such as the `._a.csv` that a Mac leaves, are none."""
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entry for entry in visible if entry.suffix.lower() in SUFFIXES and entry.is_file())


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Read a table of pictures and texts.

    Args:
        path: UTF-8 file. In `.csv` and `.tsv` the first row may be a header that names one image column (`image`,
            `file_name`, `filename`, `image_path`, `path`) and one text column (`text`, `caption`, `title`, `name`,
            `item`, `item_id`); without a header there are exactly two columns, image and text. `.jsonl` has one
            object per line with such keys. Tab-separated files have no quoting; blank lines are skipped. `.parquet`
            is read as `parquet_pairs.read_parquet_pairs` says.

    Returns:
        The rows in file order.

    Raises:
        DataError: The file is missing, empty, not UTF-8, has a row with another number of columns than the first,
            a row without image path, or no recognizable columns. The message names file and line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from erel_jax.data.parquet_pairs import read_parquet_pairs

        return read_parquet_pairs(path)
    if suffix == ".jsonl":
        pairs = [_from_object(path, number, line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    else:
        pairs = _from_rows(path, read_rows(path, "," if suffix == ".csv" else "\t"))
    if not pairs:
        raise DataError(f"{path}: the table has a header but no rows. Expected one row per picture.")
    return pairs


def read_rows(path: str | os.PathLike[str], delimiter: str) -> list[tuple[int, list[str]]]:
    """Read a delimited text file whose rows all have the same number of columns.

    Args:
        path: UTF-8 file.
        delimiter: `","` reads quoted fields as spreadsheets write them; any other character is split on plainly.

    Returns:
        Line number (of the row's last line) and cells of every row that is not blank.

    Raises:
        DataError: The file is missing, empty or not UTF-8, or a row has another number of columns than the first.
    """
    lines = read_lines(Path(path))
    if delimiter == ",":
        reader = csv.reader(io.StringIO("\n".join(lines), newline=""), strict=True)
        rows: list[tuple[int, list[str]]] = []
        try:
            rows.extend((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}. Check the quotes of this row.") from error
    else:
        rows = [(number, line.split(delimiter)) for number, line in enumerate(lines, 1) if line.strip()]
    for number, row in rows:
        if len(row) != len(rows[0][1]):
            raise DataError(
                f"{path}, line {number}: got {len(row)} columns, expected {len(rows[0][1])} as in line {rows[0][0]}. "
                "Repair the row; quote fields that contain the delimiter."
            )
    return rows


def normalize_text(text: str) -> str:
    """Bring a text into the form in which texts are compared and stored.

    Args:
        text: Any string.

    Returns:
        The text with runs of white space as one space, and lone surrogates, which no UTF-8 file can hold, as `?`.
    """
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").split())


def _from_rows(path: Path, rows: list[tuple[int, list[str]]]) -> list[Pair]:
    header = [cell.strip().casefold() for cell in rows[0][1]]
    image = next((header.index(name) for name in IMAGE_COLUMNS if name in header), None)
    text = next((header.index(name) for name in TEXT_COLUMNS if name in header), None)
    if image is not None and text is not None:
        rows = rows[1:]
    elif len(header) == 2:
        _refuse_unknown_header(path, rows)
        image, text = 0, 1
    else:
        raise DataError(
            f"{path}, line {rows[0][0]}: got {len(header)} columns without a known header. Expected two columns "
            f"(image, text), or a header with one of {', '.join(IMAGE_COLUMNS)} and one of {', '.join(TEXT_COLUMNS)}."
        )
    return [_pair(path, number, row[image], row[text]) for number, row in rows]


def _refuse_unknown_header(path: Path, rows: list[tuple[int, list[str]]]) -> None:
    """Where all first cells but the first row's are file names of pictures, that row names columns."""
    named = [row[0].strip().lower().endswith(PICTURE_SUFFIXES) for _, row in rows]
    if len(rows) > 1 and not named[0] and all(named[1:]):
        line, cells = rows[0]
        raise DataError(
            f"{path}, line {line}: got columns {', '.join(cells)}, which are not known, over rows of pictures. Call "
            f"them {IMAGE_COLUMNS[0]} and {TEXT_COLUMNS[0]}, or leave the header out."
        )


def _from_object(path: Path, number: int, line: str) -> Pair:
    try:
        value = json.loads(line)
    # RecursionError: deeply nested brackets.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: not JSON ({error}). Expected one object per line.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number}: got {type(value).__name__}, expected a JSON object.")
    image = next((value[name] for name in IMAGE_COLUMNS if name in value), None)
    text = next((value[name] for name in TEXT_COLUMNS if name in value), None)
    if not isinstance(image, str) or not isinstance(text, str):
        raise DataError(
            f"{path}, line {number}: expected strings under one of {', '.join(IMAGE_COLUMNS)} and one of "
            f"{', '.join(TEXT_COLUMNS)}, got keys {', '.join(map(str, value)) or 'none'}."
        )
    return _pair(path, number, image, text)


def _pair(path: Path, number: int, image: str, text: str) -> Pair:
    if not image.strip():
        raise DataError(f"{path}, line {number}: the image path is empty. Remove the row or name its picture.")
    return Pair(line=number, image=image.strip(), text=normalize_text(text))
