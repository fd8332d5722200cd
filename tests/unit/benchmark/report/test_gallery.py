"""Galleries on disk, and texts that data sets may hold."""

import base64
import json

import pytest

from erel_jax.benchmark.report import GalleryQuery, GalleryResult, read_galleries, write_galleries
from erel_jax.benchmark.report.gallery import data_uri, printable
from erel_jax.errors import ConfigError, DataError


def test_round_trip(tmp_path, galleries):
    path = write_galleries(tmp_path / "gallery.json", galleries)
    assert read_galleries(path) == {name: list(queries) for name, queries in galleries.items()}


def test_any_text_survives(tmp_path):
    texts = ["<script>alert(1)</script>", "\ud800 lone", "nul \x00", "\u202e reversed", "👩‍🚀 ünï", ""]
    result = [GalleryResult(text, None, 1.0, True) for text in texts]
    path = write_galleries(tmp_path / "gallery.json", {"lora": [GalleryQuery("q", None, result)]})
    assert [r.text for r in read_galleries(path)["lora"][0].results] == texts


def test_only_png_and_finite_scores():
    with pytest.raises(ConfigError, match="not PNG"):
        GalleryResult("item", b"<svg onload=alert(1)>", 1.0, True)
    with pytest.raises(ConfigError, match="not PNG"):
        GalleryQuery("query", b"GIF89a", [])
    with pytest.raises(ConfigError, match="finite"):
        GalleryResult("item", None, float("nan"), True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a gallery"),
        ("[]", "is not a gallery"),
        ('{"schema_version": "9", "methods": {}}', "gallery schema version '9'"),
        ('{"schema_version": "1"}', "is not a gallery"),
        ('{"schema_version": "1", "methods": {"a": [{"query_text": "q"}]}}', "is not a gallery"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "gallery.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"gallery\.json: .*{message}"):
        read_galleries(path)


def test_pictures_in_a_file_are_checked(tmp_path, galleries):
    path = write_galleries(tmp_path / "gallery.json", galleries)
    document = json.loads(path.read_text())
    for bad in ("not base64 !", base64.b64encode(b"<html>").decode()):
        document["methods"]["lora_r8"][0]["results"][0]["png"] = bad
        path.write_text(json.dumps(document))
        with pytest.raises(DataError, match="is not a gallery"):
            read_galleries(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_galleries(tmp_path / "none.json")


def test_printable():
    assert printable("two\nlines\tand   spaces") == "two lines and spaces"
    assert printable("a\x00b\x1b[31m\ud800") == "a\ufffdb\ufffd[31m\ufffd"
    assert printable("\u202eevil\u2066") == "evil"
    assert printable("👩‍🚀 ünï") == "👩‍🚀 ünï"
    assert printable("x" * 300) == "x" * 199 + "…"


def test_data_uri(galleries):
    png = galleries["lora_r8"][0].query_png
    prefix, _, payload = data_uri(png).partition(",")
    assert prefix == "data:image/png;base64"
    assert base64.b64decode(payload) == png
