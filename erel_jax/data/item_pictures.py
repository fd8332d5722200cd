"""Pictures of catalog items, decoded once to one size and kept as one array on disk.

A picture belongs to an item by its file name: `<item id>.jpg` (see `items.align_pictures`) in a folder or zip. Items
without a picture are declared missing and counted; a picture that cannot be decoded is listed in `bad_records.jsonl`,
counted, and its item declared missing too.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erel_jax.artifacts import ArtifactDir, cache_folder, verify_manifest, write_text_atomic
from erel_jax.data.bad_records import BadRecords
from erel_jax.data.image_sources import MissingImage, Pictures
from erel_jax.data.images import BadImage, decode_image
from erel_jax.data.items import align_pictures
from erel_jax.errors import CheckpointError, ConfigError

KIND = "item-pictures"


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemPictures:
    """Pictures in the order of item numbers.

    Attributes:
        pictures: uint8[N + 1, size, size, 3], mapped from disk; white for padding and missing items.
        present: bool[N + 1].
        missing: items without a picture file.
        bad: items whose picture could not be decoded.
        fingerprint: digest of the pixels.
    """

    pictures: np.ndarray
    present: np.ndarray
    missing: int
    bad: int
    fingerprint: str


def load_item_pictures(
    images: str | os.PathLike[str] | None,
    item_ids: Sequence[str],
    *,
    size: int,
    cache_dir: str | os.PathLike[str] | None = None,
    bad_records: str | os.PathLike[str] | None = None,
    max_bad_fraction: float = 0.01,
    progress: Callable[[str, int, int], None] | None = None,
) -> ItemPictures:
    """Decodes the items' pictures, or maps what was decoded before.

    Args:
        images: folder or zip archive with one picture per item.
        item_ids: N ids.
        size: height and width in pixels; pictures are fitted on white.
        cache_dir: where decoded pictures are kept.
        bad_records: where the list of damaged pictures is written.
        max_bad_fraction: largest tolerated share of damaged pictures, in 0..1.
        progress: called with (stage, done, total).

    Raises:
        ConfigError: no folder or archive was given.
        DataError: it does not exist, or too many pictures are damaged.
    """
    if images is None:
        raise ConfigError("got no folder of pictures; give one with `<item id>.jpg` files.")
    source = Path(images)
    with Pictures(source) as pictures:
        names = align_pictures(pictures.names(), item_ids).names[1:]
        stamps = "|".join(pictures.stamp(name) if name else "" for name in names)
        key = hashlib.sha256(f"{size}|{max_bad_fraction}|{stamps}|{'|'.join(item_ids)}".encode()).hexdigest()[:16]
        root = cache_folder() if cache_dir is None else Path(cache_dir)
        folder = root / "item_pictures" / f"{source.stem}-{key}"
        try:
            manifest = verify_manifest(folder, kind=KIND)
        except CheckpointError:
            listing = folder.with_name(f"{folder.name}.bad_records.jsonl") if bad_records is None else Path(bad_records)
            _decode(folder, pictures, names, item_ids, size, BadRecords(listing, max_bad_fraction), progress)
            manifest = verify_manifest(folder, "size", kind=KIND)
    if bad_records is not None and (folder / "bad_records.jsonl").exists():
        Path(bad_records).parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(bad_records, (folder / "bad_records.jsonl").read_text(encoding="utf-8"))
    return ItemPictures(
        pictures=np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False),
        present=np.load(folder / "present.npy", allow_pickle=False),
        missing=int(manifest.metadata["missing"]),
        bad=int(manifest.metadata["bad"]),
        fingerprint=manifest.files["pixels.npy"][1],
    )


def _decode(
    folder: Path,
    pictures: Pictures,
    names: Sequence[str],
    item_ids: Sequence[str],
    size: int,
    bad: BadRecords,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    present = np.zeros(len(names) + 1, bool)
    with ArtifactDir(folder, kind=KIND, overwrite=True) as artifact:
        pixels = np.lib.format.open_memmap(
            artifact.file("pixels.npy"), mode="w+", dtype=np.uint8, shape=(len(names) + 1, size, size, 3)
        )
        pixels[0] = 255
        for number, (item, name) in enumerate(zip(item_ids, names, strict=True), start=1):
            if progress is not None:
                progress("decoding pictures", number, len(names))
            try:
                if not name:
                    raise MissingImage(f"no picture of item {item}")
                pixels[number] = decode_image(pictures.read(name), size=(size, size))
                present[number] = True
            except MissingImage:
                pixels[number] = 255
            except BadImage as error:
                pixels[number] = 255
                bad.add(item, name, str(error))
        damaged = bad.finish(len(names))
        pixels.flush()
        np.save(artifact.file("present.npy"), present, allow_pickle=False)
        artifact.file("bad_records.jsonl").write_text(bad.to_jsonl(), encoding="utf-8")
        artifact.metadata |= {"missing": sum(not name for name in names), "bad": damaged}
