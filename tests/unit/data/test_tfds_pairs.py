"""`tfds:NAME`: prepared data sets by name, their features, their splits, and what they lack."""

import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from erel_jax.data.retrieval import load_retrieval
from erel_jax.data.tfds_store import prepare
from erel_jax.errors import ConfigError, DataError

COUNT = 120


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256, 9)).save(stream, format="PNG")
    return stream.getvalue()


def builder_of(name: str, features: dict, examples: dict):
    """A builder class with the given splits of examples."""

    def info(self):
        found = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=found, disable_shuffling=True)

    def generate(self, rows):
        yield from enumerate(rows)

    members = {
        "code_path": tfds.core.Path(__file__),
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, manager: {s: self._generate_examples(rows) for s, rows in examples.items()},
        "_generate_examples": generate,
    }
    # TFDS derives the name of the data set from that of the class.
    class_name = "".join(word.title() for word in name.split("_"))
    return type(class_name, (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)


IMAGE = tfds.features.Image(shape=(None, None, 3), encoding_format="png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A TFDS folder with captions, with labels, and with features that leave a choice."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    captions = [
        {"image": picture(n), "captions": [{"text": f"one {n}"}, {"text": f"two {n}"}], "other": picture(0)}
        for n in range(COUNT)
    ]
    captions[5]["captions"], captions[6]["captions"] = [], [{"text": " "}, {"text": "x" * 100_000}]
    features = {"image": IMAGE, "captions": tfds.features.Sequence({"text": tfds.features.Text()}), "other": IMAGE}
    prepare(builder_of("captioned", features, {"train": captions}), folder)
    labels = tfds.features.ClassLabel(names=["red_fox", "owl"])
    rows = {
        split: [{"image": picture(n), "label": n % 2} for n in range(low, high)]
        for split, low, high in [("train", 0, 80), ("test", 80, COUNT)]
    }
    prepare(builder_of("labeled", {"image": IMAGE, "label": labels}, rows), folder)
    texts = {"image": IMAGE, "left": tfds.features.Text(), "right": tfds.features.Text()}
    rows = [{"image": picture(n), "left": f"left {n}", "right": f"right {n}"} for n in range(COUNT)]
    prepare(builder_of("two_texts", texts, {"train": rows, "validation": rows[:9]}), folder)
    prepare(builder_of("no_train", texts, {"test": rows}), folder)
    return folder


def numbers(split) -> list[int]:
    return [int(split.images[row, 0, 0, 0]) for row in range(len(split))]


def test_captions_are_pairs_and_stay_with_their_picture(place, tmp_path) -> None:
    data = load_retrieval("tfds:captioned", images=place, cache_dir=tmp_path, image_size=4, text_key="captions/text")
    found = {
        (n, split.texts[t])
        for split in data.splits.values()
        for n, t in zip(numbers(split), split.text_of_image, strict=True)
    }
    expected = {(n, f"{word} {n}") for n in range(COUNT) for word in ("one", "two") if n not in (5, 6)}
    assert found == expected | {(6, "x" * 100_000)}
    sides = [set(split.image_ids) for split in data.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == COUNT - 1
    assert 80 < len(sides[0]) < COUNT - 10
    blanks = sum(split.dropped.get("blank_text", 0) for split in data.splits.values())
    listed = [json.loads(line) for line in data.bad_records.read_text().splitlines()]
    assert blanks == len(listed) == 2 and {record["id"] for record in listed} == {"train-5", "train-6"}


def test_labels_become_texts_and_given_splits_are_kept(place, tmp_path) -> None:
    data = load_retrieval("tfds:labeled", images=place, cache_dir=tmp_path, image_size=4)
    assert sorted(numbers(data.splits["test"])) == list(range(80, COUNT))
    assert sorted(numbers(data.splits["train"]) + numbers(data.splits["validation"])) == list(range(80))
    assert 2 < len(data.splits["validation"]) < 20
    for split in data.splits.values():
        assert sorted(split.texts) == ["owl", "red fox"]
        assert all(
            split.texts[t] == ["red fox", "owl"][n % 2]
            for n, t in zip(numbers(split), split.text_of_image, strict=True)
        )


def test_a_lone_validation_split_is_the_test(place, tmp_path) -> None:
    data = load_retrieval("tfds:two_texts", images=place, cache_dir=tmp_path, image_size=4, text_key="right")
    assert data.splits["test"].texts == [f"right {n}" for n in range(9)]
    again = load_retrieval("tfds:two_texts:1.0.0", images=place, cache_dir=tmp_path, image_size=4, text_key="left")
    assert again.splits["test"].texts == [f"left {n}" for n in range(9)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("absent", {}, "not prepared in .*captioned, labeled, no_train, two_texts.*download_and_prepare"),
        ("../labeled", {}, "not prepared"),
        ("hub:labeled", {}, "not prepared"),
        ("two_texts", {}, "text features (left, right|right, left); name one with --text-key"),
        ("labeled", {"text_key": "lable"}, "Did you mean 'label'"),
        ("captioned", {"image_key": "captions/text"}, "no image feature"),
        ("no_train", {"text_key": "left"}, "expected 'train'"),
        ("labeled", {"items": "x.tsv"}, "--items does not apply"),
    ],
)
def test_unusable_names_and_features_are_refused(name: str, options, message: str, place, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_retrieval(f"tfds:{name}", images=place, cache_dir=tmp_path, **options)


def test_keys_are_for_tfds_alone(tmp_path) -> None:
    with pytest.raises(ConfigError, match="--image-key and --text-key"):
        load_retrieval("glyphs", text_key="label", cache_dir=tmp_path)


def test_a_format_without_random_access_is_refused(place, tmp_path) -> None:
    (source,) = place.glob("labeled/*")
    folder = tmp_path / "labeled" / source.name
    folder.mkdir(parents=True)
    for path in source.iterdir():
        content = path.read_bytes()
        if path.suffix == ".json":
            content = content.replace(b"array_record", b"tfrecord")
        (folder / path.name.replace("array_record", "tfrecord")).write_bytes(content)
    with pytest.raises(DataError, match="stored as tfrecord, expected array_record"):
        load_retrieval("tfds:labeled", images=tmp_path, cache_dir=tmp_path / "cache")


def test_broken_pictures_are_counted(tmp_path) -> None:
    rows = [{"image": picture(n), "text": f"text {n}"} for n in range(COUNT)]
    rows[9]["image"] = picture(9)[:40]
    prepare(builder_of("broken", {"image": IMAGE, "text": tfds.features.Text()}, {"train": rows}), tmp_path)
    data = load_retrieval("tfds:broken", images=tmp_path, cache_dir=tmp_path / "cache")
    assert sum(split.dropped["bad_image"] for split in data.splits.values()) == 1
    record = json.loads(data.bad_records.read_text())
    assert record["id"] == "train-9" and "split train, record 9" in record["file"]
    assert np.sum([len(split) for split in data.splits.values()]) == COUNT - 1
