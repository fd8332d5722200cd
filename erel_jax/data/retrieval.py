"""Pictures with texts, ready for a retrieval task.

`load_retrieval` turns a data set's name, or a person's own table, into pixel arrays and texts. The first call draws,
reads and decodes, counts everything it must leave out, and stores the result with a manifest; later calls map the
stored pixels into memory in well under a second.

    data = load_retrieval("glyphs")
    test = data.splits["test"]
    test.images[0], test.texts[test.text_of_image[0]]
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from erel_jax.artifacts import ArtifactDir, cache_folder, recover, verify_manifest, write_text_atomic
from erel_jax.data.bad_records import BadRecords
from erel_jax.data.image_sources import MissingImage
from erel_jax.data.images import BadImage, decode_image
from erel_jax.data.retrieval_sources import RawData, RawRow, Source, find_source
from erel_jax.errors import ConfigError, CorruptArtifactError, DataError

KIND = "retrieval-data"
LAYOUT = 1
LIST_NAME = "bad_records.jsonl"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalSplit:
    """One split: N pictures and their distinct texts.

    The right answers for text `j` are all pictures `i` with `text_of_image[i] == j`; for picture `i`, the one text
    `text_of_image[i]`.

    Attributes:
        images: uint8[N, H, W, 3], in memory or mapped from disk, read-only.
        image_ids: N ids. A picture that a table lists with several texts occurs once per text.
        texts: Distinct texts, in order of first appearance.
        text_of_image: int32[N], row of `texts` for each picture.
        dropped: Pictures left out of this split by reason: `missing_image`, `bad_image`, and `blank_text` where texts
            are seen only while reading.
    """

    images: np.ndarray
    image_ids: list[str]
    texts: list[str]
    text_of_image: np.ndarray
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalData:
    """A data set for retrieval.

    Attributes:
        name: Data set name, or the stem of the person's table.
        fingerprint: SHA-256 hex digest of all pixels, ids, texts and splits: equal digests, equal data.
        splits: `train`, `validation`, `test`; `glyphs` also has `pretrain` and `pretrain_test`.
        dropped: Rows left out before splitting, by reason.
        bad_records: JSON Lines file that lists every picture left out.
    """

    name: str
    fingerprint: str
    splits: dict[str, RetrievalSplit]
    dropped: dict[str, int]
    bad_records: Path


def load_retrieval(
    name_or_path: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    items: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    max_bad_fraction: float = 0.01,
    bad_records: str | os.PathLike[str] | None = None,
    image_key: str | None = None,
    text_key: str | None = None,
) -> RetrievalData:
    """Load a retrieval data set.

    Args:
        name_or_path: `"glyphs"` (embedded), `"openmoji"` or `"fashion"` (from the folder `images`), `"tfds:NAME"` or
            `"tfds:NAME/CONFIG"` for what TFDS has prepared (see `tfds_pairs`), or the path of a table of pictures and
            texts (`.csv`, `.tsv`, `.jsonl`, `.parquet`; see `pair_tables`) or of a folder with one.
        cache_dir: Where prepared data is kept; the package's cache folder when None.
        images: For `openmoji` and `fashion`, the folder of their source files; for `tfds:`, TFDS's data folder, its own
            one when None. For a path, the folder or zip archive that the table's image paths are relative to; the
            table's own folder when None.
        items: For a path whose second column holds item ids: table `id<TAB>text`.
        image_size: Height and width in pixels that pictures are fitted to on white; 32 for `glyphs`, else 64.
        max_bad_fraction: Largest tolerated fraction of damaged pictures, in 0..1.
        bad_records: Where to write the list of pictures left out; beside the prepared data when None.
        image_key, text_key: For `tfds:`, the features to read; may be left out where there is no choice.

    Returns:
        The data. A person's own data is split 80/10/10 by a hash of the text; rows that share a text or a picture
        stay together.

    Raises:
        ConfigError: Unknown name, or an option that does not apply.
        DataError: A file is missing, empty or malformed (names file and line), too many pictures are damaged, or
            nothing usable is left in a split.

    Relation: `pipeline.BatchStream` draws row indices of a split, `pipeline.gather_pairs` their pixels.
    """
    source = find_source(name_or_path, images, items, image_key, text_key)
    size = source.image_size if image_size is None else image_size
    if size < 1:
        raise ConfigError(f"image_size is {size}, expected at least 1 pixel.")
    root = cache_folder() if cache_dir is None else Path(cache_dir)
    key = hashlib.sha256(f"{LAYOUT} {source.recipe} {size} {max_bad_fraction}".encode()).hexdigest()[:16]
    folder = root / "retrieval" / f"{source.name}-{key}"
    data = _load_if_whole(folder)
    if data is None:
        recover(folder.parent)
        listing = folder.with_name(f"{folder.name}.{LIST_NAME}") if bad_records is None else Path(bad_records)
        bad = BadRecords(listing, max_bad_fraction)
        raw = source.read(root / "tfds" / source.recipe[:16])
        _prepare(folder, source, raw, size, bad)
        data = _load(folder)
    elif bad_records is not None:
        Path(bad_records).parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(bad_records, data.bad_records.read_text(encoding="utf-8"))
    return data


def _prepare(folder: Path, source: Source, raw: RawData, size: int, bad: BadRecords) -> None:
    with ArtifactDir(folder, kind=KIND, schema_version=LAYOUT, overwrite=True) as artifact:
        examined = len(raw.blank)
        for image_id, file in raw.blank:
            bad.add(image_id, file, "the text is empty", damaged=False)
        index: dict[str, Any] = {"name": source.name, "dropped": dict(raw.dropped), "splits": {}}
        for split, rows in raw.splits.items():
            with open(artifact.file(f"{split}.pixels"), "wb") as stream:
                entry = _write_split(stream, rows, size, bad)
            index["splits"][split] = entry
            examined += len(entry["image_ids"]) + sum(entry["dropped"].values())
        bad.finish(examined)
        if empty := [split for split, entry in index["splits"].items() if not entry["image_ids"]]:
            raise DataError(
                f"{source.name}: nothing is left for {', '.join(empty)} of {examined} rows; {len(bad)} were left out "
                f"(listed in {bad.path}). Check the folder of the pictures, or bring more data."
            )
        index["fingerprint"] = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
        artifact.file("index.json").write_text(json.dumps(index), encoding="utf-8")
        artifact.file(LIST_NAME).write_text(bad.to_jsonl(), encoding="utf-8")


def _write_split(stream: BinaryIO, rows: Iterable[RawRow], size: int, bad: BadRecords) -> dict[str, Any]:
    digest = hashlib.sha256()
    ids: list[str] = []
    text_rows: dict[str, int] = {}
    text_of_image: list[int] = []
    dropped = Counter({"missing_image": 0, "bad_image": 0})
    channels = 3
    for row in rows:
        try:
            pixels = _pixels(row.image, size)
        except MissingImage as error:
            dropped["missing_image"] += 1
            bad.add(row.image_id, row.file, str(error), damaged=False)
            continue
        except BadImage as error:
            dropped["bad_image"] += 1
            bad.add(row.image_id, row.file, str(error))
            continue
        if not row.text:
            dropped["blank_text"] += 1
            bad.add(row.image_id, row.file, "the text is empty", damaged=False)
            continue
        channels = 1 if pixels.ndim == 2 else 3
        data = pixels.tobytes()
        digest.update(data)
        stream.write(data)
        ids.append(row.image_id)
        text_of_image.append(text_rows.setdefault(row.text, len(text_rows)))
    return {
        "shape": [len(ids), size, size, channels],
        "pixels_sha256": digest.hexdigest(),
        "image_ids": ids,
        "texts": list(text_rows),
        "text_of_image": text_of_image,
        "dropped": dict(dropped),
    }


def _pixels(image: bytes | np.ndarray | BadImage | MissingImage, size: int) -> np.ndarray:
    if isinstance(image, BadImage | MissingImage):
        raise image
    if isinstance(image, bytes):
        return decode_image(image, size)
    if image.shape == (size, size):
        return image
    from erel_jax.data.images import encode_png

    return decode_image(encode_png(image), size)


def _load_if_whole(folder: Path) -> RetrievalData | None:
    """Load prepared data; None when there is none, or when it is damaged and has to be made again."""
    if not folder.is_dir():
        return None
    try:
        return _load(folder)
    except CorruptArtifactError as error:
        _log.warning("prepared data is damaged and made again: %s", error)
        return None


def _load(folder: Path) -> RetrievalData:
    verify_manifest(folder, kind=KIND)
    index = json.loads((folder / "index.json").read_bytes())
    return RetrievalData(
        name=index["name"],
        fingerprint=index["fingerprint"],
        splits={split: _load_split(folder / f"{split}.pixels", entry) for split, entry in index["splits"].items()},
        dropped=index["dropped"],
        bad_records=folder / LIST_NAME,
    )


def _load_split(path: Path, entry: Mapping[str, Any]) -> RetrievalSplit:
    count, height, width, _ = entry["shape"]
    stored = np.memmap(path, dtype=np.uint8, mode="r", shape=tuple(entry["shape"]))
    # Gray pictures are stored once; the view repeats them without memory.
    images = np.broadcast_to(stored, (count, height, width, 3))
    return RetrievalSplit(
        images=images,
        image_ids=entry["image_ids"],
        texts=entry["texts"],
        text_of_image=np.asarray(entry["text_of_image"], dtype=np.int32),
        dropped=entry["dropped"],
    )
