"""Every row of a person's data comes out in its place, whatever is wrong with it, read from any place on."""

import io
import json
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from erel_jax.data import catalog_tables
from erel_jax.data.catalog_sources import open_source, scan
from erel_jax.data.image_resize import fit_picture
from erel_jax.data.image_sources import MissingImage, Pictures
from erel_jax.data.images import BadImage
from erel_jax.errors import ConfigError, DataError

CSV = (
    b"\xef\xbb\xbfid,image,text\r\n"
    b'a,a.png,"two\nlines"\r\n'
    b"\r\n"
    b"b,b.png,plain\r\n"
    b"c,c.png\r\n"
    b'd,d.png,"never closed\r\n'
    b"e,e.png,fine\r\n"
    b"f,f.png,\xff\xfe\r\n"
    b"g,,no picture\r\n"
    b",h.png,no id\r\n"
    b"i,i.png,last"
)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_faulty_rows_of_a_csv_keep_their_places(tmp_path):
    source = open_source(written(tmp_path / "shop.csv", CSV))
    rows = list(source.rows())
    assert [(row.place.number, row.place.line, row.id) for row in rows] == [
        (0, 2, "a"),
        (1, 5, "b"),
        (2, 6, ""),
        (3, 7, ""),
        (4, 8, "e"),
        (5, 9, ""),
        (6, 10, "g"),
        (7, 11, ""),
        (8, 12, "i"),
    ]
    assert rows[0].text == "two lines" and rows[6].image is None and rows[8].text == "last"
    for number, reason in ((2, "got 2 columns, expected 3"), (3, "quotes"), (5, "not UTF-8"), (7, "id has 0 char")):
        assert reason in (rows[number].fault or "")


@pytest.mark.parametrize("every", [1, 2, 4])
def test_reading_can_begin_at_every_place(tmp_path, every):
    source = open_source(written(tmp_path / "shop.csv", CSV))
    rows, found = list(source.rows()), scan(source, every)
    assert found.rows == 9 and len(found.places) == -(-9 // every)
    for number, place in enumerate(found.places):
        assert list(source.rows(place)) == rows[number * every :]


def test_json_lines(tmp_path):
    lines = [
        {"key": 7, "picture": "a.png", "title": " A  title "},
        [1],
        {"key": True, "title": "b"},
        {"key": "c", "title": 3},
        {"key": "d", "title": ["first", "second"], "picture": None},
        {"key": 2**62, "picture": "e.png"},
    ]
    content = "\n".join([*map(json.dumps, lines), "{not json", "[" * 100_000, json.dumps({"key": "z", "title": "z"})])
    source = open_source(written(tmp_path / "shop.jsonl", content), image_key="picture")
    rows = list(source.rows())
    assert [row.id for row in rows] == ["7", "", "", "c", "d", str(2**62), "", "", "z"]
    assert [row.fault is None for row in rows] == [True, False, False, False, True, True, False, False, True]
    assert rows[0].text == "A title" and rows[4].text == "first" and rows[4].image is None
    found = scan(source, 4)
    assert list(source.rows(found.places[1])) == rows[4:]


def test_a_line_without_end_is_one_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_tables, "MAX_LINE_BYTES", 64)
    source = open_source(written(tmp_path / "t.tsv", "id\ttext\n1\tone\n2\t" + "x" * 500 + "\n3\tthree\n"))
    rows = list(source.rows())
    assert [row.id for row in rows] == ["1", "", "3"] and "more than 64 bytes" in (rows[1].fault or "")
    assert list(source.rows(rows[2].place)) == rows[2:]


def test_parquet_with_pictures_inside(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (3, 2)).save(stream, format="PNG")
    pictures = [{"bytes": stream.getvalue(), "path": None}, {"bytes": None, "path": "x.png"}, None] * 3
    table = pyarrow.table({"item_id": list(range(9)), "image": pictures, "caption": ["a"] * 9})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    source = open_source(tmp_path)
    rows, found = list(source.rows()), scan(source, 5)
    assert [row.id for row in rows] == [str(n) for n in range(9)]
    assert rows[0].image == stream.getvalue() and rows[1].image == "x.png" and rows[2].image is None
    assert list(source.rows(found.places[1])) == rows[5:]


def test_folder_and_archive_of_pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b.png", "below/a.JPG", "notes.txt", ".hidden/c.png"):
        written(folder / name, b"x")
    source = open_source(folder)
    assert [row.id for row in source.rows()] == ["b.png", "below/a.JPG"] and source.ignored == 1
    before = scan(source, 1).fingerprint
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(folder / "b.png", "b.png")
        archive.write(folder / "below/a.JPG", "below/a.JPG")
    assert [row.id for row in open_source(tmp_path / "p.zip").rows()] == ["b.png", "below/a.JPG"]
    assert open_source(folder).fingerprint() == before
    written(folder / "b.png", b"longer")
    assert open_source(folder).fingerprint() != before


def test_an_id_that_occurs_twice_is_named_with_both_lines(tmp_path):
    source = open_source(written(tmp_path / "t.csv", "id,text\nx,1\ny,2\n\nx,3\n"))
    with pytest.raises(DataError, match="'x' stands in line 2 and again in line 5"):
        scan(source, 10)


def test_rows_without_an_id_column_are_numbered(tmp_path):
    assert [row.id for row in open_source(written(tmp_path / "t.csv", "text,image\na,1\nb,2\n")).rows()] == ["1", "2"]
    assert [row.image for row in open_source(written(tmp_path / "u.csv", "1.png,a\n2.png,b\n")).rows()] == [
        "1.png",
        "2.png",
    ]


@pytest.mark.parametrize(
    ("content", "keys", "error", "words"),
    [
        ("a,b,c\n1,2,3\n", {}, DataError, "or of text, caption, .*item. Name yours with --image-key or --text-key"),
        ("id,text\n1,2\n", {"text_key": "txt"}, ConfigError, "'txt'.*Did you mean 'text'"),
        ("", {}, DataError, "empty"),
        ("id,text\n", {}, DataError, "nothing to embed"),
        ("sku,description\na,red shoe\n", {}, DataError, "columns sku, description.*--text-key, or write a header"),
        ("x,red shoe\ny,blue\n", {}, DataError, "columns x, red shoe.*or write a header"),
        ("id;text\n1;red\n", {}, DataError, "if ';' is meant to separate columns, write a comma"),
        ("id,text,text\n1,red,blue\n", {}, DataError, "2 columns 'text', expected one"),
        ("id,id,text\n1,2,red\n", {}, DataError, "2 columns 'id', expected one"),
    ],
)
def test_unusable_tables(tmp_path, content, keys, error, words):
    with pytest.raises(error, match=words):
        scan(open_source(written(tmp_path / "t.csv", content), **keys), 10)


def test_unusable_places(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "nothing")
    with pytest.raises(DataError, match="neither a table"):
        open_source(tmp_path)
    written(tmp_path / "a.png", b"x")
    with pytest.raises(ConfigError, match="--images"):
        open_source(tmp_path, tmp_path)


@pytest.mark.parametrize("shape", [(50, 37, 3), (37, 50, 3), (10, 90, 3)])
@pytest.mark.parametrize(
    ("size", "crop", "resample"),
    [
        ({"height": 32, "width": 24}, None, 2),
        ({"shortest_edge": 32}, (32, 32), 3),
        ({"shortest_edge": 20}, (32, 33), 3),
    ],
)
def test_pictures_fit_as_transformers_fits_them(shape, size, crop, resample):
    from erel_jax.interop.image_processor import ImageProcessor

    document = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": size,
        "do_center_crop": crop is not None,
        "crop_size": {"height": (crop or (9, 9))[0], "width": (crop or (9, 9))[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
        "resample": resample,
    }
    processor = ImageProcessor(document)
    settings = processor.pixel_settings()
    assert settings is not None
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    fitted = fit_picture(pixels, settings.resize, settings.crop, settings.resample)
    expected = processor.process([pixels])[0]
    np.testing.assert_allclose(fitted * settings.scale + settings.shift, expected, atol=1e-6)


def test_settings_of_other_kinds_are_left_to_the_processor():
    from erel_jax.interop.image_processor import ImageProcessor, vit_settings

    assert ImageProcessor({**vit_settings(8), "size": {"longest_edge": 8}}).pixel_settings() is None
    assert ImageProcessor({**vit_settings(8), "do_pad": True}).pixel_settings() is None


def test_a_narrow_picture_does_not_grow_without_bound():
    with pytest.raises(BadImage, match="too many"):
        fit_picture(np.zeros((1, 60_000, 3), np.uint8), {"shortest_edge": 224}, (224, 224), 3)


def test_no_name_or_link_stops_a_folder_of_pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "2024:01").mkdir(parents=True)
    for name in ("12:30.png", "2024:01/x.png", "back\\slash.png"):
        written(folder / name, b"x")
    written(tmp_path / "outside.png", b"x")
    for name, target in (("out", "../outside"), ("gone", "nothing"), ("loop", "loop")):
        (folder / f"{name}.png").symlink_to(f"{target}.png")
    source = open_source(folder)
    assert scan(source, 2).rows == 6
    with Pictures(folder) as pictures:
        assert pictures.read("12:30.png") == pictures.read("2024:01/x.png") == b"x"
        for name, error in (("out", DataError), ("gone", MissingImage), ("loop", BadImage), ("back\\slash", DataError)):
            with pytest.raises(error):
                pictures.read(f"{name}.png")


def test_a_long_text_is_one_row(tmp_path):
    text = "\n".join(["many words"] * 20_000)
    source = open_source(written(tmp_path / "t.csv", f'id,text\n1,"{text}"\n2,{"x" * 200_000}\n3,c\n'))
    rows = list(source.rows())
    assert [(row.id, row.fault) for row in rows] == [("1", None), ("2", None), ("3", None)]
    assert len(rows[1].text or "") == 200_000


def test_an_id_that_numpy_would_change_is_left_out(tmp_path):
    lines = [{"id": "b\0", "text": "a"}, {"id": "b", "text": "b"}]
    rows = list(open_source(written(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)))).rows())
    assert "NUL" in (rows[0].fault or "") and rows[1].fault is None


def test_text_in_parquet_that_is_not_utf8_is_one_row(tmp_path):
    texts = pyarrow.array([b"a", b"\xff\xfe", b"c"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1", "2", "3"], "text": texts}), tmp_path / "t.parquet")
    rows = list(open_source(tmp_path).rows())
    assert [row.text for row in rows] == ["a", None, "c"] and "not UTF-8" in (rows[1].fault or "")


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["1"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="2 columns 'text'"):
        open_source(tmp_path)


def test_pairs_without_a_header_begin_with_the_name_of_a_picture(tmp_path):
    rows = list(open_source(written(tmp_path / "t.csv", "A.PNG ,sku\nb.png,blue\n")).rows())
    assert [(row.image, row.text) for row in rows] == [("A.PNG", "sku"), ("b.png", "blue")]


def test_what_lies_beside_the_pictures_is_counted(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "below" / ".git").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for name in ("a.png", "below/b.png", "notes.txt", ".hidden.png", "../outside/c.png"):
        written(folder / name, b"x")
    (folder / "link").symlink_to("../outside")
    (folder / "below" / "again").symlink_to("../below")
    source = open_source(folder)
    assert [row.id for row in source.rows()] == ["a.png", "below/b.png"]
    assert (source.ignored, source.hidden, source.linked) == (1, 2, ("below/again", "link"))
    remarks = " ".join(source.remarks())
    for words in ("1 files beside", "2 hidden files", "2 folders are symbolic links, such as 'below/again'"):
        assert words in remarks
    assert open_source(tmp_path / "outside").remarks() == []


def test_what_a_mac_adds_to_archives_and_folders_is_passed_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name in ("a.png", "__MACOSX/._a.png", ".b.png", "../up.png"):
            archive.writestr(name, b"x")
    source = open_source(tmp_path / "p.zip")
    assert [row.id for row in source.rows()] == ["../up.png", "a.png"] and source.hidden == 2
    (tmp_path / "t").mkdir()
    written(tmp_path / "t" / "._a.csv", b"\0\1")
    written(tmp_path / "t" / "a.csv", "id,text\nx,1\n")
    assert [row.id for row in open_source(tmp_path / "t").rows()] == ["x"]


def test_a_backslash_in_the_name_of_a_listed_picture_is_a_letter(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    written(folder / "back\\slash.png", b"inside")
    written(tmp_path / "secret.png", b"outside")
    source = open_source(folder)
    with source.pictures() as pictures:
        assert pictures.read("back\\slash.png") == b"inside"
        assert pictures.stamp("back\\slash.png").startswith("6 ")
        with pytest.raises(MissingImage):
            pictures.read("..\\secret.png")
        with pytest.raises(DataError, match="refused"):
            pictures.read("../secret.png")
    named = open_source(written(tmp_path / "t.csv", "image,text\nback\\slash.png,x\n"), folder)
    with named.pictures() as pictures, pytest.raises(DataError, match="refused"):
        pictures.read("back\\slash.png")


def test_places_are_called_what_they_are(tmp_path):
    """Pictures and rows of Parquet have no lines, and no column of ids to choose another of."""
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.png", b"x")
        archive.writestr("a.png", b"y")
    with pytest.raises(DataError, match=r"'a.png' stands in row 1 and again in row 2") as caught:
        scan(open_source(tmp_path / "p.zip"), 10)
    assert "--id-key" not in str(caught.value) and "line" not in str(caught.value)
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a", "a"], "text": ["x", "y"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"'a' stands in row 1 and again in row 2.*--id-key"):
        scan(open_source(tmp_path / "t.parquet"), 10)


def test_advice_is_that_of_the_command(tmp_path):
    table = written(tmp_path / "t.csv", "a,b,c\n1,2,3\n")
    with pytest.raises(DataError, match="Rename the column") as caught:
        open_source(table, advice="Rename the column")
    assert "--text-key" not in str(caught.value)
