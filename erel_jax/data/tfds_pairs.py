"""Pictures with texts from any data set that TFDS has prepared, under the name `tfds:NAME[/CONFIG]`.

One feature is the picture; another one says what it shows: a text, a list of texts (each makes a pair), or a class
label, whose name is the text. Splits of the data set are kept. Those it lacks are cut off its training split by a hash:
of the first text for captions, so that equal ones stay together, of the example's place for labels, so that every
class is on all sides.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from erel_jax.data.images import BadImage
from erel_jax.data.pair_tables import IMAGE_COLUMNS, TEXT_COLUMNS, normalize_text
from erel_jax.data.retrieval_sources import RawData, RawRow, Source
from erel_jax.data.splits import SPLITS, split_of
from erel_jax.data.tfds_store import find_prepared, read_split
from erel_jax.errors import ConfigError, suggest

LIKELY_TEXTS = (*TEXT_COLUMNS, "captions", "label")


def tfds_source(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    image_key: str | None = None,
    text_key: str | None = None,
) -> Source:
    """A prepared TFDS data set as a source of pairs.

    Args:
        name: `NAME` or `NAME/CONFIG`.
        data_dir: TFDS data folder; TFDS's own when None.
        image_key: Name of the image feature; may be left out where there is one.
        text_key: Name of the feature of texts or labels, with `/` between nested names, such as `captions/text`; may
            be left out where one stands out.

    Returns:
        The source; its rows are read one by one.

    Raises:
        ConfigError: The data set is not prepared, or a feature is missing, ambiguous or of another kind; lists those
            there are.
        DataError: It is stored in a format without random access.
    """
    builder = find_prepared(name, data_dir)
    features = _flat(builder.info.features)
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image) and "/" not in key]
    image = _chosen(name, "image", image_key, IMAGE_COLUMNS, images)
    text = _chosen(name, "text", text_key, LIKELY_TEXTS, [key for key, f in features.items() if _is_text(f)])
    plan = _plan(name, list(builder.info.splits))
    digest = hashlib.sha256(f"{builder.info.full_name} {image} {text} {sorted(plan.items())}".encode())
    for path in sorted(Path(os.fspath(builder.data_dir)).iterdir()):
        digest.update(f"\n{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    reader = _Reader(builder, image, text, features[text], images)

    def read(_: Path) -> RawData:
        return RawData(splits={split: reader.rows(split, plan) for split in SPLITS}, dropped={})

    short = "-".join(["tfds", *re.split(r"[/:]", name)])
    return Source(name=short, recipe=digest.hexdigest(), image_size=64, read=read)


class _Reader:
    """Reads the pairs of a split of ours from the splits that hold them."""

    def __init__(self, builder: Any, image: str, text: str, feature: Any, encoded: list[str]) -> None:
        self.builder, self.image, self.text, self.encoded = builder, image, text, encoded
        self.names = feature.int2str if isinstance(feature, tfds.features.ClassLabel) else None

    def rows(self, split: str, plan: Mapping[str, str]) -> Iterable[RawRow]:
        """The pairs of a split; `plan` says where each split comes from."""
        source = plan[split]
        cut = {other for other in SPLITS if other != "train" and plan[other] == "train"}
        for position, example in enumerate(read_split(self.builder, source, encoded=self.encoded)):
            texts = [normalize_text(text) for text in self._texts(example)] or [""]
            if source == "train" and cut:
                place = split_of(f"{position}" if self.names is not None else texts[0] or f"{position}")
                if (place if place in cut else "train") != split:
                    continue
            picture = example[self.image]
            image = bytes(picture) if picture else BadImage("the picture is empty")
            for text in texts:
                yield RawRow(
                    image_id=f"{source}-{position}",
                    text=text,
                    file=f"{self.builder.info.full_name}, split {source}, record {position}",
                    image=image,
                )

    def _texts(self, example: Any) -> Iterator[str]:
        value = example
        for part in self.text.split("/"):
            value = value[part]
        if self.names is not None:
            yield self.names(int(value)).replace("_", " ") if int(value) >= 0 else ""
            return
        for text in [value] if isinstance(value, bytes | str) else value:
            yield text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _plan(name: str, found: list[str]) -> dict[str, str]:
    """Which split of the data set each of ours is read from; "train" for those that are cut off it."""
    if "train" not in found:
        raise ConfigError(f"tfds:{name} has the splits {', '.join(found) or 'none'}, expected 'train' among them.")
    test = next((split for split in ("test", "validation") if split in found), "train")
    validation = "validation" if "validation" in found and test != "validation" else "train"
    return {"train": "train", "validation": validation, "test": test}


def _flat(features: Any, before: str = "") -> dict[str, Any]:
    """Features by path; lists of single-feature dictionaries are entered."""
    found: dict[str, Any] = {}
    for key, feature in features.items():
        inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
        if isinstance(inner, tfds.features.FeaturesDict):
            found |= _flat(inner, f"{before}{key}/")
        else:
            found[f"{before}{key}"] = feature
    return found


def _is_text(feature: Any) -> bool:
    inner = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
    label = isinstance(feature, tfds.features.ClassLabel) and bool(feature.num_classes)
    return isinstance(inner, tfds.features.Text) or label


def _chosen(name: str, role: str, wanted: str | None, likely: tuple[str, ...], usable: list[str]) -> str:
    if wanted is not None:
        if wanted in usable:
            return wanted
        raise ConfigError(f"tfds:{name} has no {role} feature {wanted!r}. {suggest(wanted, usable) or 'It has none.'}")
    if len(usable) == 1:
        return usable[0]
    for key in likely:
        if key in usable:
            return key
    found = ", ".join(usable) or "none"
    raise ConfigError(f"tfds:{name} has the {role} features {found}; name one with --{role}-key.")
