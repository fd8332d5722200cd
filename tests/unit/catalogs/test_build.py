"""Every code that `erel index` knows: built in memory and written by blocks, it finds the same."""

import json

import numpy as np
import pytest
from rich.console import Console

from erel_jax.catalogs.build import CODES, ORIGIN, _built, better_recall, build, read_origin
from erel_jax.catalogs.config import IndexConfig
from erel_jax.errors import ConfigError, CorruptArtifactError
from erel_jax.retrieval import build_index, load_index, search_index
from erel_jax.retrieval.streamed import write_index


def vectors(rows=600, width=16):
    drawn = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("name", sorted(CODES))
def test_codes_are_built_in_memory_and_by_blocks(name, tmp_path):
    rows = vectors()
    code = CODES[name](rows)
    whole = build_index(np.arange(len(rows)), rows, code=code, sample=0)
    write_index(tmp_path / "index", np.arange(len(rows)), np.split(rows, 3), code=code, sample=0)
    found = [search_index(index, rows[:20], 10).ids for index in (whole, load_index(tmp_path / "index"))]
    assert (found[0] == found[1]).all()
    # Where a code is coarse, the row itself is still most often among its ten nearest.
    assert np.mean([row in ids for row, ids in enumerate(found[0])]) >= 0.7


def test_too_few_vectors_for_a_fitted_code():
    with pytest.raises(ConfigError, match="256"):
        CODES["product"](vectors(20))
    assert CODES["lists_int8"](vectors(1)).width == 16


def test_the_option_names_every_code():
    assert set(IndexConfig.__annotations__["code"].__args__) == set(CODES)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("par/v", "equals, contains"),
        ("par", "equals, contains"),
        ("par/v/index", "equals, contains"),
        ("link", "equals, contains"),
        ("mine", "expected an artifact of kind 'index'"),
        ("mine/text", "is a file"),
        ("mine/text/below", "is a file"),
        (".", "equals, contains"),
    ],
)
def test_overwriting_spares_everything_but_an_index(tmp_path, monkeypatch, out, words):
    (tmp_path / "par" / "v").mkdir(parents=True)
    (tmp_path / "par" / "v" / "plan.json").write_text("{}")
    (tmp_path / "link").symlink_to("par/v")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text").write_text("precious")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    config = IndexConfig(vectors=tmp_path / "par" / "v", out=tmp_path / out, overwrite=True)
    with pytest.raises(ConfigError, match=words):
        build(config, Console())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "document", [{"model": {"name": 5}, "source": {}}, {"model": 3, "source": {}}, {"model": {}, "source": {}}, []]
)
def test_an_origin_that_makes_no_sense_is_damage(tmp_path, document):
    (tmp_path / ORIGIN).write_text(json.dumps(document))
    with pytest.raises(CorruptArtifactError, match="Build the index again"):
        read_origin(tmp_path)


@pytest.mark.parametrize("keep_vectors", [False, True])
@pytest.mark.parametrize("code", sorted(CODES))
def test_advice_for_more_recall_is_something_else_than_what_is_done(code, keep_vectors):
    advice = better_recall(code, keep_vectors)
    assert f"--code {code}" not in advice and f"as {code}" not in advice
    assert ("or --keep-vectors" in advice) == (not keep_vectors and code not in ("float32", "lists_int8"))
    assert ("more bits" in advice) == (code not in ("float32", "lists_int8"))
    named = [name for name in CODES if name in advice.replace(",", " ").replace(".", " ").split()]
    assert code == "float32" or named, "a code that helps is named"


def test_a_code_that_cannot_be_fitted_is_answered_with_one_that_can(tmp_path):
    rows = vectors(20)
    config = IndexConfig(vectors=tmp_path / "v", out=tmp_path / "i", code="product")
    with pytest.raises(ConfigError, match=r"--code product cannot be fitted to the 20 vectors.*--code, such as int8"):
        _built(config, None, np.arange(20), rows)  # type: ignore[arg-type]
