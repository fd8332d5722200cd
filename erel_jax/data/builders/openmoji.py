"""TFDS builder of OpenMoji, 72x72 drawings of emoji with their annotations, from a person's own folder.

The folder holds `openmoji.json` and `openmoji_72.zip` (members `<hexcode>.png`). Variants by skin tone and flags are
left out: they repeat one drawing, or name a place that no picture shows. Splits go by base code point, the first of
an emoji's sequence, so that a drawing and its variants are on one side; base code points that share a text are
joined. OpenMoji is licensed CC BY-SA 4.0.
"""

import json
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from erel_jax.data.image_sources import MissingImage, Pictures
from erel_jax.data.images import BadImage
from erel_jax.data.pair_tables import normalize_text
from erel_jax.data.splits import SPLITS, join_groups, split_groups
from erel_jax.data.tfds_store import metadata_of
from erel_jax.errors import DataError

ANNOTATIONS = "openmoji.json"
ARCHIVE = "openmoji_72.zip"
SOURCES = (ANNOTATIONS, ARCHIVE)


class Openmoji(tfds.core.GeneratorBasedBuilder):
    """OpenMoji drawings with their annotations."""

    # Found by TFDS itself only with importlib_resources installed, which TFDS 4.9.10 does not require.
    code_path = tfds.core.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Without skin tones and flags; split by base code point."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A folder with {ANNOTATIONS} and {ARCHIVE} (72x72 color PNG, <hexcode>.png)."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image_id": tfds.features.Text(doc="Code points in hexadecimal, joined by hyphens."),
                    "text": tfds.features.Text(doc="English annotation."),
                    "image": tfds.features.Image(shape=(None, None, 4), encoding_format="png"),
                }
            ),
            homepage="https://openmoji.org",
            license="CC BY-SA 4.0",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir)
        rows, dropped = read_annotations(folder / ANNOTATIONS)
        metadata_of(self)["dropped"] = dropped
        metadata_of(self)["problems"] = []
        groups = join_groups([(row[0].split("-")[0], row[1]) for row in rows])
        splits: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
        for row, split in zip(rows, split_groups(groups), strict=True):
            splits[split].append(row)
        return {split: self._generate_examples(folder / ARCHIVE, kept, split) for split, kept in splits.items()}

    def _generate_examples(self, archive: Path, rows: list[tuple[str, str]], split: str):
        with Pictures(archive) as pictures:
            for key, (hexcode, text) in enumerate(rows):
                name = f"{hexcode}.png"
                try:
                    image = pictures.read(name)
                except (MissingImage, BadImage) as error:
                    missing = isinstance(error, MissingImage)
                    metadata_of(self)["problems"].append(
                        [split, hexcode, f"{archive.name}/{name}", str(error), missing]
                    )
                else:
                    yield key, {"image_id": hexcode, "text": text, "image": image}


def read_annotations(path: Path) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Read which emoji there are.

    Args:
        path: `openmoji.json`.

    Returns:
        Hexcode and text of every emoji that is kept, in file order, and the number left out by reason.

    Raises:
        DataError: The file is missing, is not a JSON list, or an entry lacks a field.
    """
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Expected the annotations of OpenMoji.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). Download it again.") from error
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: expected a JSON list of emoji, got {type(entries).__name__}. Download it again.")
    dropped = {"skin_tone": 0, "flag": 0, "blank_text": 0}
    rows = []
    for position, entry in enumerate(entries):
        try:
            hexcode, text = str(entry["hexcode"]), normalize_text(entry["annotation"])
            toned = bool(entry["skintone"])
            flag = "flag" in entry["group"] or "flag" in entry["subgroups"]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: entry {position} lacks a field ({error!r}). Download it again.") from error
        reason = "skin_tone" if toned else "flag" if flag else "blank_text" if not text else None
        if reason is None:
            rows.append((hexcode, text))
        else:
            dropped[reason] += 1
    return rows, dropped
