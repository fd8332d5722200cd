"""The data sets that `load_retrieval` knows, each as undecoded rows.

A source says what its rows depend on (`recipe`, which names the cached copy) and, when asked, reads them: the
embedded glyphs, the two builders and whatever else TFDS has prepared through TFDS, a person's own table directly.
Nothing is decoded here; a picture that is missing or unreadable is handed on as the error it raised, for the loader to
count.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from erel_jax.data import glyphs
from erel_jax.data.image_sources import MissingImage, Pictures
from erel_jax.data.images import BadImage
from erel_jax.data.items import read_items
from erel_jax.data.pair_tables import Pair, find_table, normalize_text, read_pairs
from erel_jax.data.splits import SPLITS, join_groups, split_groups
from erel_jax.errors import ConfigError, DataError, suggest

NAMES = ("glyphs", "openmoji", "fashion")
TFDS = "tfds:"


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """One picture before decoding.

    Attributes:
        image_id: Id of the picture in its data set.
        text: Its text.
        file: Where it came from, for the list of bad records.
        image: Encoded bytes, gray pixels uint8[H, W], or the error that reading it raised.
    """

    image_id: str
    text: str
    file: str
    image: bytes | np.ndarray | BadImage | MissingImage


@dataclass(frozen=True, kw_only=True)
class RawData:
    """All rows of a data set.

    Attributes:
        splits: Split name to rows, read while iterating.
        dropped: Rows left out before they were assigned to a split, by reason.
        blank: Id and file of rows without text, to be listed.
    """

    splits: Mapping[str, Iterable[RawRow]]
    dropped: Mapping[str, int]
    blank: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set that can be read.

    Attributes:
        name: Short name for records and folders.
        recipe: Digest of everything the rows depend on.
        image_size: Side in pixels at which its pictures are used unless another is asked for.
        read: Reads the rows, given a folder for TFDS.
    """

    name: str
    recipe: str
    image_size: int
    read: Callable[[Path], RawData]


def find_source(
    name_or_path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    items: str | os.PathLike[str] | None,
    image_key: str | None = None,
    text_key: str | None = None,
) -> Source:
    """Find a data set by name or path without decoding its pictures.

    Args:
        name_or_path: One of `NAMES`, `tfds:NAME[/CONFIG]`, or the path of a table or of a folder with one table.
        images: Folder with the source files (`openmoji`, `fashion`), TFDS data folder (`tfds:`), or folder or zip
            archive of the pictures (path).
        items: Two-column table of item id and text, if the table at a path names items instead of texts.
        image_key, text_key: Features of a `tfds:` data set, see `tfds_pairs.tfds_source`.

    Returns:
        The source.

    Raises:
        ConfigError: The name is unknown, or an option does not apply to the data set.
        DataError: A file is missing or malformed.
    """
    name = os.fspath(name_or_path)
    if name.startswith(TFDS):
        from erel_jax.data.tfds_pairs import tfds_source

        if items is not None:
            raise ConfigError(f"--items does not apply to {name!r}, which brings its own texts. Leave it out.")
        return tfds_source(name.removeprefix(TFDS), images, image_key, text_key)
    if image_key is not None or text_key is not None:
        raise ConfigError(f"--image-key and --text-key name features of a {TFDS}NAME data set, got {name!r}.")
    if name in NAMES:
        if items is not None:
            raise ConfigError(f"--items does not apply to {name!r}, which brings its own texts. Leave it out.")
        return _glyphs(images) if name == "glyphs" else _built(name, images)
    if not Path(name).exists() and Path(name).name == name and not Path(name).suffix:
        raise ConfigError(f"{name!r} is neither a known data set nor a file or folder. {suggest(name, NAMES)}")
    return _own(Path(name), images, items)


def _glyphs(images: str | os.PathLike[str] | None) -> Source:
    if images is not None:
        raise ConfigError("--images does not apply to 'glyphs', whose pictures are drawn. Leave it out.")

    def read(data_dir: Path) -> RawData:
        from erel_jax.data.builders.glyphs import Glyphs
        from erel_jax.data.tfds_store import metadata_of, prepare, read_split

        builder = prepare(Glyphs, data_dir)

        def rows(split: str) -> Iterable[RawRow]:
            for example in read_split(builder, split):
                code = f"{ord(example['character'].decode()):04X}"
                for font, picture in zip(example["fonts"], example["pictures"], strict=True):
                    image_id = f"{code}-{font.decode()}"
                    yield RawRow(image_id=image_id, text=example["text"].decode(), file="glyphs", image=picture)

        return RawData(
            splits={split: rows(split) for split in glyphs.SPLITS}, dropped=dict(metadata_of(builder)["dropped"])
        )

    return Source(name="glyphs", recipe=glyphs.glyph_recipe(), image_size=32, read=read)


def _built(name: str, images: str | os.PathLike[str] | None) -> Source:
    from erel_jax.data.builders import fashion, openmoji

    module, builder_class = (openmoji, openmoji.Openmoji) if name == "openmoji" else (fashion, fashion.Fashion)
    expected = " and ".join(module.SOURCES)
    if images is None:
        raise ConfigError(f"Data set {name!r} needs a folder with {expected}. Name it with --images FOLDER.")
    folder = Path(images)
    digest = hashlib.sha256(str(builder_class.VERSION).encode())
    for source in module.SOURCES:
        if not (folder / source).is_file():
            raise DataError(f"{folder / source}: no such file. Data set {name!r} needs {expected} in one folder.")
        with open(folder / source, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())

    def read(data_dir: Path) -> RawData:
        from erel_jax.data.tfds_store import metadata_of, prepare, read_split

        builder = prepare(builder_class, data_dir, folder)
        problems = metadata_of(builder)["problems"]

        def rows(split: str) -> Iterable[RawRow]:
            for target, image_id, file, reason, missing in problems:
                if target == split:
                    error = MissingImage(reason) if missing else BadImage(reason)
                    yield RawRow(image_id=image_id, text="", file=file, image=error)
            for example in read_split(builder, split, encoded="image"):
                image_id, text = example["image_id"].decode(), example["text"].decode()
                yield RawRow(image_id=image_id, text=text, file=module.ARCHIVE, image=example["image"])

        return RawData(
            splits={split: rows(split) for split in SPLITS},
            dropped=dict(metadata_of(builder)["dropped"]),
        )

    return Source(name=name, recipe=digest.hexdigest(), image_size=64, read=read)


def _own(path: Path, images: str | os.PathLike[str] | None, items: str | os.PathLike[str] | None) -> Source:
    table = find_table(path)
    root = Path(images) if images is not None else table.parent
    pairs = read_pairs(table)
    texts = None
    if items is not None:
        listed = read_items(Path(items))
        texts = dict(zip(listed.ids, listed.texts, strict=True))
    # What a Parquet table holds itself is part of its pairs' names.
    parquet = table.suffix.lower() == ".parquet"
    digest = hashlib.sha256(
        repr([(pair.image, pair.text) for pair in pairs]).encode() if parquet else table.read_bytes()
    )
    if items is not None:
        digest.update(Path(items).read_bytes())
    with Pictures(root) as pictures:
        for pair in pairs:
            if pair.row is not None:
                continue
            try:
                digest.update(f"{pair.image}\n{pictures.stamp(pair.image)}\n".encode("utf-8", "replace"))
            except DataError as error:
                raise DataError(f"{table}, line {pair.line}: {error}") from error

    def read(_: Path) -> RawData:
        if texts is not None and not any(pair.text in texts for pair in pairs):
            raise DataError(
                f"{table}: none of its {len(pairs)} texts is an item of {items}, for example {pairs[0].text[:40]!r}. "
                "With --items the second column names items; leave it out where the column holds texts."
            )
        kept, dropped, blank = _select(table, pairs, texts)
        groups = join_groups([(pair.text, pair.image) for pair in kept])
        if (count := len({group.casefold() for group in groups})) < len(SPLITS):
            raise DataError(
                f"{table}: got {len({pair.text for pair in kept})} distinct texts and "
                f"{len({pair.image for pair in kept})} pictures, which share so much that they are {count} groups, "
                f"expected at least {len(SPLITS)} to split ({dropped['blank_text']} rows have no text). "
                "Bring more data."
            )
        splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
        for pair, split in zip(kept, split_groups(groups), strict=True):
            splits[split].append(pair)
        rows = {split: _read_rows(root, table, members) for split, members in splits.items()}
        return RawData(splits=rows, dropped=dropped, blank=blank)

    return Source(name=table.stem, recipe=digest.hexdigest(), image_size=64, read=read)


def _select(
    table: Path, pairs: list[Pair], texts: Mapping[str, str] | None
) -> tuple[list[Pair], dict[str, int], list[tuple[str, str]]]:
    dropped = {"blank_text": 0, "duplicate_row": 0}
    blank: list[tuple[str, str]] = []
    kept: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        text = pair.text if texts is None else normalize_text(texts.get(pair.text, ""))
        if not text:
            dropped["blank_text"] += 1
            blank.append((pair.image, f"{table}, line {pair.line}"))
        elif (pair.image, text) in kept:
            dropped["duplicate_row"] += 1
        else:
            kept[pair.image, text] = replace(pair, text=text)
    return list(kept.values()), dropped, blank


def _read_rows(root: Path, table: Path, pairs: list[Pair]) -> Iterable[RawRow]:
    embedded = _embedded(table, pairs)
    with Pictures(root) as pictures:
        for pair in pairs:
            try:
                image: bytes | BadImage | MissingImage = (
                    pictures.read(pair.image) if pair.row is None else next(embedded)
                )
            except (BadImage, MissingImage) as error:
                image = error
            if pair.row is not None and not image:
                image = MissingImage(f"row {pair.line} has no picture")
            place = "line" if pair.row is None else "row"
            yield RawRow(image_id=pair.image, text=pair.text, file=f"{table}, {place} {pair.line}", image=image)


def _embedded(table: Path, pairs: list[Pair]) -> Iterator[bytes]:
    """Pictures that lie in the table itself, in the order of the pairs."""
    rows = [pair.row for pair in pairs if pair.row is not None]
    if rows:
        from erel_jax.data.parquet_pairs import embedded_pictures

        yield from embedded_pictures(table, rows)
