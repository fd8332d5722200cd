"""Parquet tables: the three ways to hold a picture, several texts per picture, and everything that is wrong."""

import io
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from erel_jax.data.parquet_pairs import ROWS_AT_ONCE, embedded_pictures, read_parquet_pairs
from erel_jax.data.retrieval import RetrievalData, load_retrieval
from erel_jax.errors import ConfigError, DataError


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256, 9)).save(stream, format="PNG")
    return stream.getvalue()


def table(path, images, texts, *, kind=None, names=("image", "caption"), group=50):
    columns = {names[0]: pa.array(images, type=kind), names[1]: pa.array(texts)}
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def as_paths(root, count):
    for number in range(count):
        (root / f"{number}.png").write_bytes(picture(number))
    return [f"{number}.png" for number in range(count)], pa.string()


def as_bytes(root, count):
    return [picture(number) for number in range(count)], pa.binary()


def as_structs(root, count):
    return [{"bytes": picture(number), "path": "picture.png"} for number in range(count)], STRUCT


def seen(data: RetrievalData) -> set[tuple[int, str]]:
    """First and second color channel as a number, and text, of all pairs."""
    return {
        (int(split.images[row, 0, 0, 0]) + 256 * int(split.images[row, 0, 0, 1]), split.texts[split.text_of_image[row]])
        for split in data.splits.values()
        for row in range(len(split))
    }


@pytest.mark.parametrize("held", [as_paths, as_bytes, as_structs])
def test_every_way_to_hold_a_picture_gives_the_pairs(held, tmp_path) -> None:
    images, kind = held(tmp_path, 300)
    path = table(tmp_path / "pairs.parquet", images, [f"text {number % 100}" for number in range(300)], kind=kind)
    data = load_retrieval(path, cache_dir=tmp_path / "cache", image_size=4)
    assert data.name == "pairs"
    assert seen(data) == {(number, f"text {number % 100}") for number in range(300)}
    texts = [text for split in data.splits.values() for text in split.texts]
    assert len(texts) == len(set(texts))


def test_lists_of_texts_are_pairs_of_one_picture_on_one_side(tmp_path) -> None:
    images, kind = as_structs(tmp_path, 40)
    texts = [[f"one {number}", f"two  {number}"] for number in range(40)]
    path = table(tmp_path / "p.parquet", images, texts, kind=kind, names=("Image", "text"))
    data = load_retrieval(path, cache_dir=tmp_path / "cache", image_size=4)
    assert seen(data) == {(number, f"{word} {number}") for number in range(40) for word in ("one", "two")}
    sides = [set(split.image_ids) for split in data.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 40


def test_nothing_is_lost_silently(tmp_path) -> None:
    images, kind = as_structs(tmp_path, 600)
    texts: list[str | None] = [f"text {number}" for number in range(600)]
    images[3] = {"bytes": None, "path": None}
    images[4] = {"bytes": None, "path": "absent.png"}
    images[5]["bytes"] = images[5]["bytes"][:30]
    texts[6], texts[7], texts[8] = None, " \n", "long " * 20_000
    images[9], texts[9] = images[10], texts[10]
    data = load_retrieval(table(tmp_path / "p.parquet", images, texts, kind=kind), cache_dir=tmp_path / "cache")
    dropped = {
        key: sum(split.dropped.get(key, 0) for split in data.splits.values()) for key in ("missing_image", "bad_image")
    }
    assert dropped == {"missing_image": 2, "bad_image": 1}
    assert data.dropped == {"blank_text": 2, "duplicate_row": 1}
    assert sum(map(len, data.splits.values())) == 600 - 6
    assert max(len(text) for split in data.splits.values() for text in split.texts) == len("long " * 20_000) - 1
    listed = [json.loads(line) for line in data.bad_records.read_text().splitlines()]
    rows = {record["file"].rsplit(" ", 1)[1] for record in listed}
    assert len(listed) == 5 and rows == {"4", "5", "6", "7", "8"}


def test_a_picture_may_lie_beside_a_table_that_holds_others(tmp_path) -> None:
    images, kind = as_structs(tmp_path, 30)
    (tmp_path / "beside.png").write_bytes(picture(1000))
    images[7] = {"bytes": None, "path": "beside.png"}
    path = table(tmp_path / "p.parquet", images, [f"text {number}" for number in range(30)], kind=kind)
    assert (1000, "text 7") in seen(load_retrieval(path, cache_dir=tmp_path / "cache", image_size=4))


def test_pictures_come_in_the_order_of_rows_across_groups(tmp_path) -> None:
    images, kind = as_bytes(tmp_path, 3 * ROWS_AT_ONCE)
    path = table(tmp_path / "p.parquet", images, ["t"] * len(images), kind=kind, group=100)
    rows = [0, 5, 5, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3, len(images) - 1]
    assert list(embedded_pictures(path, rows)) == [images[row] for row in rows]
    assert list(embedded_pictures(path, [])) == []


def test_a_changed_table_is_noticed_and_an_equal_one_is_not_decoded(tmp_path, monkeypatch) -> None:
    images, kind = as_bytes(tmp_path, 30)
    texts = [f"text {number}" for number in range(30)]
    path = table(tmp_path / "p.parquet", images, texts, kind=kind)
    first = load_retrieval(path, cache_dir=tmp_path / "cache")
    images[3] = picture(5000)
    table(path, images, texts, kind=kind)
    assert load_retrieval(path, cache_dir=tmp_path / "cache").fingerprint != first.fingerprint
    monkeypatch.setattr("erel_jax.data.retrieval.decode_image", None)
    load_retrieval(path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("images", "texts", "kind", "names", "message"),
    [
        (["a"], ["t"], None, ("picture", "text"), "got columns picture, text, expected one of image"),
        (["a"], ["t"], None, ("image", "words"), "expected one of text, caption"),
        ([3], ["t"], None, ("image", "text"), "column 'image' holds int64"),
        (["a"], [3], None, ("image", "text"), "column 'text' holds int64"),
        ([], [], pa.string(), ("image", "text"), "holds null|no rows"),
    ],
)
def test_unusable_columns_are_refused(images, texts, kind, names, message: str, tmp_path) -> None:
    with pytest.raises(DataError, match=message):
        read_parquet_pairs(table(tmp_path / "p.parquet", images, texts, kind=kind, names=names))


def test_damage_is_a_data_error(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_parquet_pairs(tmp_path / "absent.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 is how it begins, and that is all")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_parquet_pairs(tmp_path / "a.parquet")
    noise = np.random.default_rng(0).bytes(50_000)
    path = table(tmp_path / "b.parquet", [noise], ["t"], kind=pa.binary())
    content = bytearray(path.read_bytes())
    content[4:40] = bytes(36)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        read_parquet_pairs(path)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch) -> None:
    path = table(tmp_path / "p.parquet", ["a"], ["t"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        read_parquet_pairs(path)
