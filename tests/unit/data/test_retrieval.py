"""Retrieval data from end to end: the embedded set, the two builders, own tables, and everything that goes wrong."""

import csv
import io
import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from erel_jax.data.glyphs import draw_glyphs
from erel_jax.data.retrieval import RetrievalData, load_retrieval
from erel_jax.errors import ConfigError, CorruptArtifactError, DataError


def picture(number: int, format: str = "PNG", mode: str = "RGB") -> bytes:
    color = (number % 256, number // 256, 9) + ((255,) if mode == "RGBA" else ())
    stream = io.BytesIO()
    Image.new(mode, (4, 4), color).save(stream, format=format)
    return stream.getvalue()


@pytest.fixture
def own(tmp_path):
    """A folder with 300 pictures in 100 texts, every third picture of the same text."""
    root = tmp_path / "own"
    (root / "pictures").mkdir(parents=True)
    lines = []
    for number in range(300):
        (root / "pictures" / f"{number}.png").write_bytes(picture(number))
        lines.append(f"pictures/{number}.png\ttext {number % 100}")
    (root / "pairs.tsv").write_text("\n".join(lines) + "\n")
    return root


def check_consistent(data: RetrievalData) -> None:
    texts = [text for split in data.splits.values() for text in split.texts]
    assert len(texts) == len(set(texts))
    for split in data.splits.values():
        assert split.images.shape[0] == len(split) == len(split.image_ids) == len(split.text_of_image)
        assert split.images.dtype == np.uint8 and split.images.shape[3] == 3
        assert split.text_of_image.dtype == np.int32
        assert set(split.text_of_image.tolist()) == set(range(len(split.texts)))


@pytest.fixture(scope="module")
def glyph_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glyphs")
    return folder, load_retrieval("glyphs", cache_dir=folder)


def test_glyphs_are_stored_and_read_back(glyph_cache) -> None:
    folder, data = glyph_cache
    check_consistent(data)
    splits, dropped = draw_glyphs()
    assert data.dropped == dropped
    for name, members in splits.items():
        split = data.splits[name]
        assert split.texts == [glyph.name for glyph in members]
        pixels = np.concatenate([glyph.pictures for glyph in members])
        np.testing.assert_array_equal(split.images[:, :, :, 2], pixels)
        assert split.image_ids[0] == f"{ord(members[0].character):04X}-{members[0].fonts[0]}"
    stored = list((folder / "tfds").glob("*/glyphs/1.0.0/*.array_record*"))
    assert len(stored) == 5
    assert "tensorflow" not in sys.modules


def test_the_second_load_reads_what_the_first_stored(glyph_cache) -> None:
    folder, data = glyph_cache
    shutil.move(folder / "tfds", folder / "elsewhere")
    try:
        again = load_retrieval("glyphs", cache_dir=folder)
    finally:
        shutil.move(folder / "elsewhere", folder / "tfds")
    assert again.fingerprint == data.fingerprint
    np.testing.assert_array_equal(again.splits["test"].images, data.splits["test"].images)
    assert not again.splits["test"].images.flags.writeable


def test_a_damaged_copy_is_made_again(glyph_cache, caplog) -> None:
    folder, data = glyph_cache
    (pixels,) = (folder / "retrieval").glob("glyphs-*/test.pixels")
    whole = pixels.read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    pixels.write_bytes(flipped)
    again = load_retrieval("glyphs", cache_dir=folder)
    assert "damaged and made again" in caplog.text
    assert pixels.read_bytes() == whole
    assert again.fingerprint == data.fingerprint


def test_a_damaged_record_store_is_named(glyph_cache, tmp_path) -> None:
    folder, _ = glyph_cache
    shutil.copytree(folder / "tfds", tmp_path / "tfds")
    (record,) = (tmp_path / "tfds").glob("*/glyphs/1.0.0/*-test.array_record*")
    damaged = bytearray(record.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    record.write_bytes(damaged)
    with pytest.raises(CorruptArtifactError, match=r"split 'test' is damaged"):
        load_retrieval("glyphs", cache_dir=tmp_path)


def test_own_data_is_split_by_text(own, tmp_path) -> None:
    data = load_retrieval(own, cache_dir=tmp_path / "cache", image_size=8)
    check_consistent(data)
    assert data.name == "pairs"
    assert sum(len(split) for split in data.splits.values()) == 300
    assert 60 < len(data.splits["train"].texts) < 95
    for split in data.splits.values():
        assert split.images.shape[1:] == (8, 8, 3)
        for row, image_id in enumerate(split.image_ids):
            number = int(image_id.removeprefix("pictures/").removesuffix(".png"))
            assert split.texts[split.text_of_image[row]] == f"text {number % 100}"
            assert split.images[row, 0, 0].tolist() == [number % 256, number // 256, 9]


def test_the_second_load_does_not_decode(own, tmp_path, monkeypatch) -> None:
    first = load_retrieval(own / "pairs.tsv", cache_dir=tmp_path / "cache")
    monkeypatch.setattr("erel_jax.data.retrieval.decode_image", None)
    assert load_retrieval(own, cache_dir=tmp_path / "cache").fingerprint == first.fingerprint


def test_a_changed_picture_is_noticed(own, tmp_path) -> None:
    first = load_retrieval(own, cache_dir=tmp_path / "cache")
    (own / "pictures" / "3.png").write_bytes(picture(4000))
    second = load_retrieval(own, cache_dir=tmp_path / "cache")
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_pictures_may_lie_elsewhere(packed: bool, own, tmp_path) -> None:
    place = tmp_path / "pairs.tsv"
    shutil.move(own / "pairs.tsv", place)
    images = own
    if packed:
        images = tmp_path / "pictures.zip"
        with zipfile.ZipFile(images, "w") as archive:
            for path in sorted((own / "pictures").iterdir()):
                archive.write(path, f"pictures/{path.name}")
    data = load_retrieval(place, images=images, cache_dir=tmp_path / "cache")
    assert sum(len(split) for split in data.splits.values()) == 300


def test_texts_may_come_from_an_items_table(own, tmp_path) -> None:
    (own / "pairs.tsv").write_text("".join(f"pictures/{number}.png\ti{number}\n" for number in range(40)))
    items = tmp_path / "items.tsv"
    items.write_text("".join(f"i{number}\tname {number}\n" for number in range(38)) + "i38\t\n")
    data = load_retrieval(own, items=items, cache_dir=tmp_path / "cache")
    assert sorted(text for split in data.splits.values() for text in split.texts) == sorted(
        f"name {number}" for number in range(38)
    )
    assert data.dropped["blank_text"] == 2  # one is empty, one is not in the table


def test_rows_with_a_shared_picture_stay_together(own, tmp_path) -> None:
    lines = [f"pictures/{number}.png\t{kind} {number}" for number in range(60) for kind in ("one", "two", "three")]
    (own / "pairs.tsv").write_text("\n".join([*lines, lines[0]]))
    data = load_retrieval(own, cache_dir=tmp_path / "cache")
    assert data.dropped["duplicate_row"] == 1
    sides = [set(split.image_ids) for split in data.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 60


def test_missing_pictures_and_texts_are_counted_and_listed(own, tmp_path) -> None:
    for number in (7, 8):
        (own / "pictures" / f"{number}.png").unlink()
    with open(own / "pairs.tsv", "a") as stream:
        stream.write("pictures/9.png\t \n")
    listing = tmp_path / "out" / "bad_records.jsonl"
    for _ in range(2):  # the second time from the prepared data
        data = load_retrieval(own, cache_dir=tmp_path / "cache", bad_records=listing)
        assert sum(split.dropped["missing_image"] for split in data.splits.values()) == 2
        assert data.dropped == {"blank_text": 1, "duplicate_row": 0}
        records = {record["id"]: record for record in map(json.loads, listing.read_text().splitlines())}
        assert set(records) == {"pictures/7.png", "pictures/8.png", "pictures/9.png"}
        assert records["pictures/7.png"]["file"].endswith("pairs.tsv, line 8")
        assert data.bad_records.read_bytes() == listing.read_bytes()
        listing.unlink()


def damage(own, count: int) -> None:
    for number in range(count):
        path = own / "pictures" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:40])


def test_a_few_damaged_pictures_are_counted_and_listed(own, tmp_path) -> None:
    damage(own, 3)
    data = load_retrieval(own, cache_dir=tmp_path / "cache")
    assert sum(split.dropped["bad_image"] for split in data.splits.values()) == 3
    assert len(data.bad_records.read_text().splitlines()) == 3
    assert sum(len(split) for split in data.splits.values()) == 297


def test_more_than_one_percent_damaged_stops_and_leaves_the_list(own, tmp_path) -> None:
    damage(own, 4)
    listing = tmp_path / "bad_records.jsonl"
    with pytest.raises(DataError, match="4 of 300 records are damaged"):
        load_retrieval(own, cache_dir=tmp_path / "cache", bad_records=listing)
    assert len(listing.read_text().splitlines()) == 4
    assert not list((tmp_path / "cache" / "retrieval").glob("*/index.json"))
    assert len(load_retrieval(own, cache_dir=tmp_path / "cache", max_bad_fraction=0.02).bad_records.read_text()) > 0


def test_a_wrong_folder_of_pictures_is_no_empty_success(own, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing is left for train, validation, test of 300 rows"):
        load_retrieval(own, images=tmp_path / "empty", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname"])
def test_a_path_out_of_the_folder_is_refused_with_its_line(path: str, own, tmp_path) -> None:
    with open(own / "pairs.tsv", "a") as stream:
        stream.write(f"{path}\ta text\n")
    with pytest.raises(DataError, match=r"pairs\.tsv, line 301: .*refused"):
        load_retrieval(own, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name_or_path": "glyph"}, ConfigError, "Did you mean 'glyphs'"),
        ({"name_or_path": "absent/pairs.tsv"}, DataError, "no such file or folder"),
        ({"name_or_path": "openmoji"}, ConfigError, "needs a folder with openmoji.json and openmoji_72.zip"),
        ({"name_or_path": "fashion", "images": "absent"}, DataError, "fashion15k_styles.csv: no such file"),
        ({"name_or_path": "glyphs", "images": "."}, ConfigError, "--images does not apply to 'glyphs'"),
        ({"name_or_path": "openmoji", "items": "x"}, ConfigError, "--items does not apply"),
        ({"name_or_path": "glyphs", "image_size": 0}, ConfigError, "image_size is 0"),
    ],
)
def test_unusable_arguments_are_refused(arguments, error, message: str, tmp_path) -> None:
    with pytest.raises(error, match=message):
        load_retrieval(arguments.pop("name_or_path"), cache_dir=tmp_path, **arguments)


def openmoji_folder(root, count: int = 40):
    root.mkdir()
    entries = []
    with zipfile.ZipFile(root / "openmoji_72.zip", "w") as archive:
        for number in range(count):
            base = f"{0x1F600 + number:X}"
            variants = [(base, f"face {number}", "", "people"), (f"{base}-200D-2642", f"man {number}", "", "people")]
            if number < 5:
                variants += [(f"{base}-1F3FB", f"face {number}: light skin tone", "1", "people")]
                variants += [(f"1F1E6-{number:X}", f"flag {number}", "", "flags")]
            for hexcode, text, tone, group in variants:
                archive.writestr(f"{hexcode}.png", picture(number, mode="RGBA"))
                entry = {"hexcode": hexcode, "annotation": text, "skintone": tone, "group": group, "subgroups": "x"}
                entries.append(entry)
    (root / "openmoji.json").write_text(json.dumps(entries))
    return root


def test_openmoji_is_split_by_base_code_point(tmp_path) -> None:
    root = openmoji_folder(tmp_path / "openmoji")
    data = load_retrieval("openmoji", images=root, cache_dir=tmp_path / "cache")
    check_consistent(data)
    assert data.dropped == {"skin_tone": 5, "flag": 5, "blank_text": 0}
    sides = [{image_id.split("-")[0] for image_id in split.image_ids} for split in data.splits.values()]
    assert sum(map(len, sides)) == 40
    assert sum(map(len, data.splits.values())) == 80


def test_openmoji_counts_missing_drawings(tmp_path) -> None:
    root = openmoji_folder(tmp_path / "openmoji")
    entries = json.loads((root / "openmoji.json").read_text())
    entries.append({"hexcode": "2B50", "annotation": "star", "skintone": "", "group": "symbols", "subgroups": "x"})
    (root / "openmoji.json").write_text(json.dumps(entries))
    data = load_retrieval("openmoji", images=root, cache_dir=tmp_path / "cache")
    assert sum(split.dropped["missing_image"] for split in data.splits.values()) == 1
    assert json.loads(data.bad_records.read_text())["id"] == "2B50"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON list"),
        ('[{"hexcode": "1"}]', "entry 0 lacks a field"),
        ("", "not JSON"),
    ],
)
def test_openmoji_annotations_that_are_wrong(content: str, message: str, tmp_path) -> None:
    root = openmoji_folder(tmp_path / "openmoji", 5)
    (root / "openmoji.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_retrieval("openmoji", images=root, cache_dir=tmp_path / "cache")


def fashion_folder(root, titles: list[str]):
    root.mkdir()
    with zipfile.ZipFile(root / "fashion15k_60x80.zip", "w") as archive:
        for number in range(len(titles)):
            archive.writestr(f"{number}.jpg", picture(number, "JPEG"))
    with open(root / "fashion15k_styles.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "gender", "productDisplayName", "image"])
        writer.writerows([str(number), "Men", title, f"{number}.jpg"] for number, title in enumerate(titles))
    return root


def test_fashion_keeps_equal_titles_together(tmp_path) -> None:
    titles = [f"Shirt, {number % 50}" if number % 2 else f"SHIRT,  {number % 50}" for number in range(200)] + [""]
    data = load_retrieval("fashion", images=fashion_folder(tmp_path / "f", titles), cache_dir=tmp_path / "cache")
    check_consistent(data)
    assert data.dropped == {"blank_text": 1}
    folded = [{text.casefold() for text in split.texts} for split in data.splits.values()]
    assert sum(map(len, folded)) == len(set.union(*folded)) == 50
    for split in data.splits.values():
        assert all(np.bincount(split.text_of_image) == 4)


def test_fashion_table_errors_name_the_line(tmp_path) -> None:
    root = fashion_folder(tmp_path / "f", ["a", "b"])
    table = root / "fashion15k_styles.csv"
    good = table.read_text()
    for content, message in [
        (good + "3,Men,c\n", r"styles\.csv, line 4: got 3 columns, expected 4"),
        (good.replace("productDisplayName", "title"), r"line 1: no column productDisplayName"),
    ]:
        table.write_text(content)
        with pytest.raises(DataError, match=message):
            load_retrieval("fashion", images=root, cache_dir=tmp_path / "cache")


def test_fashion_archive_damage_is_counted(tmp_path) -> None:
    root = fashion_folder(tmp_path / "f", [f"t {number}" for number in range(200)])
    archive = root / "fashion15k_60x80.zip"
    data = bytearray(archive.read_bytes())
    data[data.index(b"17.jpg") + 60] ^= 0xFF
    archive.write_bytes(data)
    loaded = load_retrieval("fashion", images=root, cache_dir=tmp_path / "cache")
    assert sum(split.dropped["bad_image"] for split in loaded.splits.values()) == 1
    assert json.loads(loaded.bad_records.read_text())["id"] == "17"


@pytest.mark.parity
def test_real_openmoji_has_the_expected_counts(shared_data, tmp_path) -> None:
    data = load_retrieval("openmoji", images=shared_data, cache_dir=tmp_path)
    check_consistent(data)
    # Counted with a few lines of plain Python over openmoji.json.
    assert data.dropped == {"skin_tone": 1785, "flag": 304, "blank_text": 0}
    assert sum(map(len, data.splits.values())) == 4147 - 1785 - 304
    assert data.bad_records.read_bytes() == b""
