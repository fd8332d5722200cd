"""Item pictures: in the order of item numbers, missing and damaged ones declared, decoded once."""

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from erel_jax.data import item_pictures
from erel_jax.data.item_pictures import load_item_pictures
from erel_jax.errors import ConfigError, DataError

COLORS = {"b": (255, 0, 0), "a": (0, 255, 0), "c": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (6, 6), color).save(root / f"{name}.png")
    (root / "notes.txt").write_text("not a picture")
    return root


def load(source, tmp_path, ids=("a", "none", "b"), **options):
    return load_item_pictures(source, ids, size=4, cache_dir=tmp_path / "cache", **options)


def test_rows_follow_item_numbers(folder, tmp_path) -> None:
    found = load(folder, tmp_path)
    assert found.pictures.shape == (4, 4, 4, 3) and found.pictures.dtype == np.uint8
    expected = [(255, 255, 255), COLORS["a"], (255, 255, 255), COLORS["b"]]
    assert [tuple(row[0, 0].tolist()) for row in found.pictures] == expected
    assert found.present.tolist() == [False, True, False, True]
    assert (found.missing, found.bad) == (1, 0)


def test_a_picture_is_fitted_on_white(folder, tmp_path) -> None:
    Image.new("RGB", (8, 4), (0, 0, 0)).save(folder / "a.png")
    rows = load(folder, tmp_path).pictures[1, :, 0, 0].tolist()
    assert rows == [255, 0, 0, 255]


def test_an_archive_gives_the_same_as_a_folder(folder, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    assert load(tmp_path / "pictures.zip", tmp_path).fingerprint == load(folder, tmp_path).fingerprint


def test_damaged_pictures_are_listed_counted_and_missing(folder, tmp_path) -> None:
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    listing = tmp_path / "out" / "bad_records.jsonl"
    for _ in range(2):  # read, then from the cache: the list is written either way
        listing.unlink(missing_ok=True)
        found = load(folder, tmp_path, bad_records=listing, max_bad_fraction=0.5)
        assert (found.missing, found.bad) == (1, 1)
        assert found.present.tolist() == [False, True, False, False]
        assert (found.pictures[3] == 255).all()
        (record,) = [json.loads(line) for line in listing.read_text().splitlines()]
        assert (record["id"], record["file"]) == ("b", "b.png")


def test_too_many_damaged_pictures_stop_the_job_and_leave_no_cache(folder, tmp_path) -> None:
    (folder / "b.png").write_bytes(b"\x89PNG")
    listing = tmp_path / "bad_records.jsonl"
    with pytest.raises(DataError, match=r"1 of 3 records are damaged, more than 1\.00%"):
        load(folder, tmp_path, bad_records=listing)
    assert "b.png" in listing.read_text()
    assert list((tmp_path / "cache" / "item_pictures").iterdir()) == []


def test_pictures_are_decoded_once_and_again_when_a_file_changes(folder, tmp_path, monkeypatch) -> None:
    decoded = []
    decode = item_pictures.decode_image
    monkeypatch.setattr(item_pictures, "decode_image", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    first = load(folder, tmp_path)
    assert len(decoded) == 2
    assert load(folder, tmp_path).fingerprint == first.fingerprint
    assert len(decoded) == 2
    Image.new("RGB", (6, 6), (9, 9, 9)).save(folder / "a.png")
    os.utime(folder / "a.png", ns=(1, 1))
    changed = load(folder, tmp_path)
    assert len(decoded) == 4
    assert changed.pictures[1, 0, 0].tolist() == [9, 9, 9]
    assert changed.fingerprint != first.fingerprint


def test_a_damaged_cache_is_made_again(folder, tmp_path) -> None:
    first = load(folder, tmp_path)
    (stored,) = (tmp_path / "cache" / "item_pictures").glob("*/pixels.npy")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    assert load(folder, tmp_path).fingerprint == first.fingerprint


def test_progress_reaches_the_end(folder, tmp_path) -> None:
    seen = []
    load(folder, tmp_path, progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert seen[-1] == ("decoding pictures", 3, 3)


def test_without_a_usable_source_the_message_says_what_is_expected(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"<item id>\.jpg"):
        load(None, tmp_path)
    with pytest.raises(DataError, match="absent"):
        load(tmp_path / "absent", tmp_path)
    (tmp_path / "list.txt").write_text("x")
    with pytest.raises(DataError, match=r"list\.txt"):
        load(tmp_path / "list.txt", tmp_path)


def test_two_files_for_one_item_are_refused(folder, tmp_path) -> None:
    Image.new("RGB", (6, 6)).save(folder / "a.jpg")
    with pytest.raises(DataError, match="two pictures for item 'a'"):
        load(folder, tmp_path)
