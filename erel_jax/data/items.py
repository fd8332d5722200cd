"""What is known about items besides who used them: their texts, and which of them have a picture.

An items file holds one item per line: its id, a tab, and its text; no header. A third column (an abstract, genres)
is allowed when every row has it. `align_texts` and `align_pictures` bring such knowledge into the order of the item
numbers 1..N that `split_sequences` gave out, with a presence mask. An item without text or picture is declared
missing there and counted; it is never dropped, and no stand-in value pretends to be its content.
"""

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erel_jax.data.sequences import read_lines
from erel_jax.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """Rows of an items file.

    Attributes:
        ids: Item ids in file order.
        texts: One text per id; "" where the file gives none.
        source: The file, for messages and records.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    source: str


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedTexts:
    """Texts in the order of item numbers.

    Attributes:
        texts: N + 1 texts; entry 0 belongs to padding and is "", as is every missing text.
        present: bool[N + 1], True where there is a text.
        missing: How many of the items 1..N have no text.
    """

    texts: tuple[str, ...]
    present: np.ndarray
    missing: int


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedPictures:
    """Names of picture files in the order of item numbers.

    Attributes:
        names: N + 1 file names; entry 0 and every missing one is "".
        present: bool[N + 1], True where there is a picture.
        missing: How many of the items 1..N have no picture.
    """

    names: tuple[str, ...]
    present: np.ndarray
    missing: int


def read_items(path: str | Path, *, unescape: bool = False) -> Items:
    """Read an items file: `item<TAB>title`, or `item<TAB>title<TAB>more` in every row.

    Args:
        path: UTF-8 text file without header.
        unescape: Turn HTML entities (`&amp;`) into characters. Off by default: published results of the IISAN line
            were computed on the raw titles.

    Returns:
        Ids and texts in file order. With three columns the text is "title more"; `|` between genres becomes a space.

    Raises:
        DataError: The file is missing or empty, the first row has neither 2 nor 3 columns, a later row has another
            number of columns than the first, or an id is empty or repeated. The message names file and line.
    """
    texts: dict[str, str] = {}
    first_line: dict[str, int] = {}
    width = 0
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t")
        width = width or len(columns)
        if len(columns) != width or width not in (2, 3):
            expected = str(width) if width in (2, 3) else "2 (item<TAB>title)"
            raise DataError(
                f"{path}, line {number}: got {len(columns)} columns, expected {expected}"
                f"{'' if number == 1 else ' as in line 1'}. Separate columns by single tabs; remove tabs inside texts."
            )
        item = columns[0].strip()
        if not item:
            raise DataError(f"{path}, line {number}: the item id is empty. Give every row an id before the tab.")
        if item in texts:
            raise DataError(
                f"{path}, line {number}: item {item!r} already has line {first_line[item]}. Expected one row per item; "
                "remove one of the two."
            )
        text = " ".join(part for part in (columns[1], *(more.replace("|", " ") for more in columns[2:])) if part)
        texts[item] = html.unescape(text) if unescape else text
        first_line[item] = number
    return Items(ids=tuple(texts), texts=tuple(texts.values()), source=str(path))


def align_texts(items: Items, item_ids: Sequence[str]) -> AlignedTexts:
    """Bring texts into the order of item numbers.

    Args:
        items: What `read_items` returned.
        item_ids: N ids; element i - 1 is the id of item i (`SequenceData.item_ids`).

    Returns:
        Texts, presence and count. An item is missing when the file has no row for it or its text is blank.
    """
    by_id = dict(zip(items.ids, items.texts, strict=True))
    texts = ("", *(by_id.get(item, "").strip() for item in item_ids))
    present = np.asarray([bool(text) for text in texts])
    return AlignedTexts(texts=texts, present=present, missing=len(item_ids) - int(present.sum()))


def align_pictures(file_names: Collection[str], item_ids: Sequence[str]) -> AlignedPictures:
    """Find each item's picture by name: `<item id>.jpg`, `.jpeg`, `.png` or `.webp`, in any folder.

    Args:
        file_names: Paths of picture files inside a folder or an archive.
        item_ids: N ids; element i - 1 is the id of item i.

    Returns:
        File names, presence and count. Nothing is opened here: decoding, and the counting of pictures that turn out
        to be damaged, belongs to the image reader.

    Raises:
        DataError: Two files claim the same item.
    """
    by_id: dict[str, str] = {}
    for name in sorted(file_names):
        path = Path(name)
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
            continue
        if path.stem in by_id:
            raise DataError(
                f"two pictures for item {path.stem!r}: {by_id[path.stem]!r} and {name!r}. Expected one file per item; "
                "remove one of the two."
            )
        by_id[path.stem] = name
    names = ("", *(by_id.get(item, "") for item in item_ids))
    present = np.asarray([bool(name) for name in names])
    return AlignedPictures(names=names, present=present, missing=len(item_ids) - int(present.sum()))
