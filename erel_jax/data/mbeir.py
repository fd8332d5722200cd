"""The file formats of M-BEIR, the benchmark of retrieval between any mix of texts and pictures.

Queries and candidates are JSON Lines whose entries have a text, a picture, or both; judgments are five columns of text;
a table of instructions says in words what is sought. Ids are `dataset:n`. Readers take a `BadRecords` that lists what
had to be left out, or None to stop at the first fault; either way file and line are named. `mbeir_tasks.load_mbeir`
reads a whole folder.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erel_jax.data.bad_records import BadRecords
from erel_jax.data.sequences import read_lines
from erel_jax.errors import DataError
from erel_jax.folders import safe_join

CANDIDATES_PER_DATASET = 10_000_000
QUERIES_PER_DATASET = 500_000
MODALITIES = ("text", "image", "image,text")
ENDS = (".", "?", "!")
REPEATED = "repeated id: the first one counts"


@dataclass(frozen=True, kw_only=True, slots=True)
class MbeirItem:
    """One entry of a pool, or what is common to queries and candidates.

    Attributes:
        id: `dataset:n`.
        modality: "text", "image" or "image,text", as declared.
        text: as stored, "" where there is none.
        image: path of the picture relative to the folder, None where there is none.
    """

    id: str
    modality: str
    text: str
    image: str | None

    @property
    def dataset(self) -> int:
        """Number of the data set it belongs to."""
        return int(self.id.split(":")[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class MbeirQuery(MbeirItem):
    """One query.

    Attributes:
        positives: ids of right candidates, those of other data sets included.
        negatives: ids of mined wrong candidates; may be empty.
    """

    positives: tuple[str, ...]
    negatives: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class MbeirPool:
    """Candidates to search in.

    Attributes:
        items: the candidates in file order.
        rows: place of each id in `items`.
    """

    items: list[MbeirItem]
    rows: dict[str, int]

    def __len__(self) -> int:
        return len(self.items)


def hash_query_id(qid: str) -> int:
    """The whole number of a query id: `dataset · 500,000 + n`. DataError where it is no id."""
    return _hash(qid, QUERIES_PER_DATASET)


def hash_candidate_id(did: str) -> int:
    """The whole number of a candidate id: `dataset · 10,000,000 + n`. DataError where it is no id."""
    return _hash(did, CANDIDATES_PER_DATASET)


def query_id(number: int) -> str:
    """The inverse of `hash_query_id`."""
    return f"{number // QUERIES_PER_DATASET}:{number % QUERIES_PER_DATASET}"


def candidate_id(number: int) -> str:
    """The inverse of `hash_candidate_id`."""
    return f"{number // CANDIDATES_PER_DATASET}:{number % CANDIDATES_PER_DATASET}"


def format_text(text: str) -> str:
    """A text as encoders see it: without quotes around it, with a capital and a full stop.

    >>> format_text(' "a red shoe" '), format_text("why?"), format_text("")
    ('A red shoe.', 'Why?', '')
    """
    text = text.replace("\r", "").strip().strip('"').strip()
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith(ENDS) else text + "."


@dataclass(frozen=True, kw_only=True, eq=False)
class MbeirInstructions:
    """What is sought, in words.

    Attributes:
        prompts: some wordings for (data set, modality of the query, modality of the candidates).
        path: the file they came from.
    """

    prompts: Mapping[tuple[int, str, str], tuple[str, ...]]
    path: Path

    def instructed(self, query: MbeirItem, sought: str, seed: int) -> str:
        """`"{instruction} {query}"` with one of the wordings.

        Args:
            query: the query.
            sought: modality of the candidates it asks for.
            seed: which wording a query gets is decided by the seed and its id; take another seed in each epoch.

        Raises:
            DataError: there is no instruction for this data set and these modalities.
        """
        key = (query.dataset, query.modality, sought)
        if key not in self.prompts:
            raise DataError(
                f"{self.path}: no instruction for data set {key[0]} from {key[1]!r} to {key[2]!r}, which query "
                f"{query.id} needs. Add a row, or go without instructions."
            )
        digest = hashlib.blake2b(f"{seed} {query.id}".encode(), digest_size=4).digest()
        wordings = self.prompts[key]
        prompt = format_text(wordings[int.from_bytes(digest, "big") % len(wordings)])
        return format_text(f"{prompt} {query.text}")


def read_queries(
    path: str | os.PathLike[str], root: str | os.PathLike[str], bad: BadRecords | None = None
) -> list[MbeirQuery]:
    """Read a file of queries.

    Args:
        path: JSON Lines with `qid`, `query_txt`, `query_img_path`, `query_modality`, `pos_cand_list` and
            `neg_cand_list`; what does not apply is null or missing.
        root: folder that paths of pictures are relative to.
        bad: lists what is left out or incomplete; None raises instead.

    Returns:
        The queries in file order. One whose picture is missing goes on with its text, if it has one. Of equal ids the
        first counts: a query that is there twice would be trained and scored twice.

    Raises:
        DataError: the file is missing or has no query; a picture's path leads out of the folder; or, without `bad`,
            a damaged line (names file and line).
    """
    reader = _Reader(Path(path), Path(root), bad)
    found: dict[str, MbeirQuery] = {}
    for line, entry in reader.entries():
        made = reader.item(line, entry, ("qid", "query_modality", "query_txt", "query_img_path"), QUERIES_PER_DATASET)
        lists = [entry.get(name) or [] for name in ("pos_cand_list", "neg_cand_list")]
        if made is None:
            continue
        if not all(isinstance(ids, list) and all(map(_is_candidate_id, ids)) for ids in lists):
            reader.refuse(made["id"], line, "candidate ids: expected lists of 'dataset:n'")
            continue
        query = MbeirQuery(**made, positives=tuple(lists[0]), negatives=tuple(lists[1]))
        if found.setdefault(query.id, query) is not query:
            reader.refuse(query.id, line, REPEATED, damaged=found[query.id] != query)
    return reader.not_empty(list(found.values()))


def read_pool(path: str | os.PathLike[str], root: str | os.PathLike[str], bad: BadRecords | None = None) -> MbeirPool:
    """Read a pool of candidates.

    Args:
        path: JSON Lines with `did`, `txt`, `img_path` and `modality`.
        root, bad: as in `read_queries`.

    Returns:
        The pool, about 0.3 kB of host memory a candidate beside its text. Of equal ids the first counts.

    Raises:
        DataError: as `read_queries`.
    """
    reader = _Reader(Path(path), Path(root), bad)
    items: dict[str, MbeirItem] = {}
    for line, entry in reader.entries():
        made = reader.item(line, entry, ("did", "modality", "txt", "img_path"), CANDIDATES_PER_DATASET)
        if made is None:
            continue
        item = MbeirItem(**made)
        if items.setdefault(item.id, item) is not item:
            reader.refuse(item.id, line, REPEATED, damaged=items[item.id] != item)
    return _pool(reader.not_empty(list(items.values())))


def union_pool(pools: Iterable[MbeirPool]) -> MbeirPool:
    """All candidates of some pools, each id once, in order of first appearance."""
    items: dict[str, MbeirItem] = {}
    for pool in pools:
        for item in pool.items:
            items.setdefault(item.id, item)
    return _pool(list(items.values()))


def read_qrels(path: str | os.PathLike[str], bad: BadRecords | None = None) -> dict[str, tuple[str, ...]]:
    """Read judgments.

    Args:
        path: lines `qid 0 did relevance task`; the task may be missing.
        bad: as in `read_queries`.

    Returns:
        Query id to the ids of its right candidates (relevance above 0), in file order.

    Raises:
        DataError: the file is missing or empty, or, without `bad`, a damaged line (names file and line).
    """
    reader = _Reader(Path(path), Path(path).parent, bad)
    found: dict[str, list[str]] = {}
    for line, text in enumerate(read_lines(Path(path)), 1):
        cells = text.split()
        if not cells:
            continue
        fitting = len(cells) in (4, 5) and _is_id(cells[0], QUERIES_PER_DATASET) and _is_candidate_id(cells[2])
        if not fitting or not cells[3].lstrip("-").isdecimal():
            expected = "expected 'qid 0 did relevance task', ids as 'dataset:n' and a whole relevance"
            reader.refuse(cells[0][:40], line, f"judgment: got {text[:80]!r}, {expected}")
            continue
        right = found.setdefault(cells[0], [])
        if int(cells[3]) > 0 and cells[2] not in right:
            right.append(cells[2])
    return {qid: tuple(right) for qid, right in found.items()}


def read_instructions(path: str | os.PathLike[str]) -> MbeirInstructions:
    """Read the table of instructions.

    Args:
        path: tab-separated, with a header: query modality, candidate modality, name and number of the data set, then
            one or more wordings (four in M-BEIR).

    Returns:
        The instructions.

    Raises:
        DataError: the file is missing or empty, or a row is damaged or without wording (names file and line).
    """
    path, prompts = Path(path), {}
    for line, text in enumerate(read_lines(path)[1:], 2):
        if not text.strip():
            continue
        cells = [cell.strip() for cell in text.split("\t")]
        wordings = tuple(cell for cell in cells[4:] if cell.strip('" '))
        modalities = [_modality(cell) for cell in cells[:2]]
        if None in modalities or not wordings or not cells[3].isdecimal():
            raise DataError(
                f"{path}, line {line}: got {text[:80]!r}, expected tab-separated: query modality, candidate modality "
                f"(one of {', '.join(map(repr, MODALITIES))}), data set, its number, and at least one wording."
            )
        prompts[int(cells[3]), modalities[0], modalities[1]] = wordings
    if not prompts:
        raise DataError(f"{path}: a header and no instruction. Expected one row per data set and pair of modalities.")
    return MbeirInstructions(prompts=prompts, path=path)


@dataclass
class _Reader:
    """One file on its way in: where it is, and what happens to lines that cannot be used."""

    path: Path
    root: Path
    bad: BadRecords | None

    def refuse(self, id: str, line: int, reason: str, damaged: bool = True) -> None:
        if self.bad is None:
            raise DataError(f"{self.path}, line {line}: {reason}. Repair or remove the line.")
        self.bad.add(id, f"{self.path}, line {line}", reason, damaged=damaged)

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The objects of a JSON Lines file, read line by line: the largest pool has millions."""
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file. Expected JSON Lines in the format of M-BEIR.")
        with open(self.path, "rb") as stream:
            for line, raw in enumerate(stream, 1):
                if not raw.strip():
                    continue
                try:
                    entry = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
                # RecursionError: deeply nested brackets. UnicodeDecodeError is a ValueError.
                except (ValueError, RecursionError) as error:
                    self.refuse(f"line {line}", line, f"not JSON: {error}")
                    continue
                if isinstance(entry, dict):
                    yield line, entry
                else:
                    self.refuse(f"line {line}", line, f"not an object: got {type(entry).__name__}")

    def item(self, line: int, entry: dict[str, Any], names: tuple[str, str, str, str], limit: int) -> Any:
        """Fields of an `MbeirItem`, or None where the entry cannot be used."""
        id, modality, text, image = (entry.get(name) for name in names)
        text, image = text or "", image or None
        shown = str(id)[:40]
        if not _is_id(id, limit):
            self.refuse(shown, line, f"{names[0]}: got {shown!r}, expected 'dataset:n' with n below {limit}")
        elif (declared := _modality(modality)) is None:
            self.refuse(shown, line, f"{names[1]}: got {modality!r}, expected one of {', '.join(MODALITIES)}")
        elif not isinstance(text, str) or not isinstance(image, str | None):
            self.refuse(shown, line, f"{names[2]} and {names[3]}: expected strings or null")
        else:
            image = self.existing(shown, line, image)
            # Text of white space and quotes alone is shown to no encoder, so it counts as none.
            if format_text(text) or image is not None:
                return {"id": id, "modality": declared, "text": text, "image": image}
            self.refuse(shown, line, "nothing there: neither text nor picture", damaged=False)
        return None

    def existing(self, id: str, line: int, image: str | None) -> str | None:
        """The path if there is a file, checked to lie in the folder."""
        if image is None:
            return None
        try:
            file = safe_join(self.root, image, error=DataError)
        except DataError as error:
            raise DataError(f"{self.path}, line {line}: {error}") from error
        if file.is_file():
            return image
        self.refuse(id, line, f"missing image: {image}", damaged=False)
        return None

    def not_empty(self, found: list[Any]) -> list[Any]:
        if not found:
            raise DataError(f"{self.path}: no usable line. Expected JSON Lines in the format of M-BEIR.")
        return found


def _pool(items: list[MbeirItem]) -> MbeirPool:
    return MbeirPool(items=items, rows={item.id: row for row, item in enumerate(items)})


def _modality(value: Any) -> str | None:
    """The usual spelling of a modality, None where it is none."""
    value = "image,text" if value == "text,image" else value
    return value if value in MODALITIES else None


def _is_candidate_id(value: Any) -> bool:
    return _is_id(value, CANDIDATES_PER_DATASET)


def _is_id(value: Any, limit: int) -> bool:
    if not isinstance(value, str) or not value.isascii():
        return False
    dataset, _, number = value.partition(":")
    return dataset.isdecimal() and number.isdecimal() and int(number) < limit


def _hash(value: str, limit: int) -> int:
    if not _is_id(value, limit):
        raise DataError(f"got id {value!r}, expected 'dataset:n' with whole numbers and n below {limit}.")
    dataset, _, number = value.partition(":")
    return int(dataset) * limit + int(number)
