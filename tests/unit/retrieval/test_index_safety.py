"""Indexes that meet damaged files, second writers, other encoders, other metrics, and numbers of hits out of range."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from erel_jax.errors import ConfigError, CorruptArtifactError, DataError
from erel_jax.retrieval import add, build_index, delete, load_index, save_index, search_exact, search_index, writing
from erel_jax.retrieval.codes import Int8PerVector, eden

WIDTH = 8


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    index = build_index(
        [f"id {i}" for i in range(30)], drawn(30), code=eden(WIDTH, 2), keep_vectors=True, sample=0, made_by="a" * 8
    )
    save_index(tmp_path / "index", index)
    return tmp_path / "index"


FILES = ["ids.npy", "stored.codes.npy", "stored.factor.npy", "code.rotation.npy", "code.levels.npy", "vectors.npy"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_damage_to_any_file_is_found_and_the_file_named(folder, name, harm) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(bytes(data[:-3]))
    else:
        data[len(data) * 3 // 4] ^= 4
        path.write_bytes(bytes(data))
    with pytest.raises(CorruptArtifactError, match=name):
        load_index(folder)


def test_every_file_is_covered_by_a_checksum(folder) -> None:
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(listed) == set(FILES) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:-9])
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json"):
        load_index(folder)


@pytest.mark.parametrize(
    ("old", "new"), [('"made_by"', '"lade_by"'), ('"bits": 2', '"bits": 3'), ('"inner_product"', '"cosine"')]
)
def test_a_manifest_that_says_something_else_is_found(folder, old, new) -> None:
    path = folder / "manifest.json"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    for verify in ("auto", "size", "off"):
        with pytest.raises(CorruptArtifactError, match=r"manifest\.json is damaged"):
            load_index(folder, verify=verify)


@pytest.mark.parametrize("name", ["stored", "settings", "rows", "measured"])
@pytest.mark.parametrize("value", [None, 7, "x", {"x": 1}], ids=repr)
def test_without_a_checksum_a_manifest_may_be_old_but_not_broken(folder, name, value) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["metadata"]["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_index(folder).made_by == "a" * 8
    if name == "measured" and value is None:
        del manifest["metadata"][name]
    else:
        manifest["metadata"][name] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifactError):
        load_index(folder)


def test_how_to_verify_is_one_of_its_choices_and_what_is_no_array_is_named(folder) -> None:
    with pytest.raises(ConfigError, match=r"verify is 'bogus'.*auto, full, size, off"):
        load_index(folder, verify="bogus")  # type: ignore[arg-type]
    (folder / "ids.npy").write_bytes(b"no array")
    with pytest.raises(CorruptArtifactError, match=r"ids\.npy is no array"):
        load_index(folder, verify="off")


def test_a_second_writer_is_refused_and_the_index_stays_usable(folder) -> None:
    index = load_index(folder)
    with writing(folder) as save:
        for second in (lambda: save_index(folder, index, overwrite=True), lambda: writing(folder).__enter__()):
            with pytest.raises(ConfigError, match=rf"{folder.name} is being written.*process {os.getpid()} "):
                second()
        assert len(load_index(folder)) == 30
        save(add(index, ["new"], drawn(1, 1)))
    assert len(load_index(folder)) == 31
    assert len(search_index(index, drawn(2), 3).ids) == 2, "what was opened before can still be read"
    save_index(folder, index, overwrite=True)
    assert len(load_index(folder)) == 30


def test_a_killed_writer_is_no_obstacle(folder, plain_environment) -> None:
    program = textwrap.dedent(f"""
        import os, sys
        from erel_jax.retrieval.writer import only_writer
        with only_writer({str(folder)!r}):
            os.rename({str(folder)!r}, {str(folder)!r} + f".old-{{os.getpid()}}")
            os.kill(os.getpid(), 9)
    """)
    killed = subprocess.run([sys.executable, "-c", program], env=plain_environment, capture_output=True, text=True)
    assert killed.returncode == -9 and not folder.exists()
    assert len(load_index(folder)) == 30, "moved back"
    with writing(folder) as save:
        save(load_index(folder))
    assert [path.name for path in folder.parent.iterdir() if "old" in path.name] == []


def test_a_failed_save_leaves_the_old_index(folder) -> None:
    index = load_index(folder)
    with pytest.raises(TypeError), writing(folder) as save:
        save(build_index([1], drawn(1), sample=0, made_by=object()))  # type: ignore[arg-type]
    assert load_index(folder).ids.tolist() == index.ids.tolist()
    assert sorted(path.name for path in folder.parent.iterdir()) == [".index.lock", "index"]


def test_another_encoder_is_refused_with_both_named(folder) -> None:
    index = load_index(folder)
    assert index.made_by == "a" * 8
    assert len(search_index(index, drawn(1), 1, made_by="a" * 8).ids) == len(search_index(index, drawn(1), 1).ids) == 1
    for asking in (
        lambda: search_index(index, drawn(1), 1, made_by="other"),
        lambda: add(index, ["x"], drawn(1), made_by="other"),
    ):
        with pytest.raises(ConfigError, match="encoder 'aaaaaaaa', and this asks with encoder 'other'"):
            asking()
    assert add(index, ["x"], drawn(1), made_by="a" * 8).made_by == "a" * 8


@pytest.mark.parametrize("keep", [False, True])
def test_cosine_brings_both_sides_to_length_one(tmp_path, keep) -> None:
    vectors, queries = drawn(40) * np.arange(1, 41, dtype=np.float32)[:, None], 7 * drawn(3, 1)
    vectors[5] = 0
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    index = build_index(np.arange(30), vectors[:30], metric="cosine", keep_vectors=keep)
    index = add(index, np.arange(30, 40), vectors[30:])
    save_index(tmp_path / "index", index)
    expected = search_exact(unit, queries / np.linalg.norm(queries, axis=1, keepdims=True), 5)
    for one in (index, load_index(tmp_path / "index")):
        found = search_index(one, queries, 5, metric="cosine")
        np.testing.assert_array_equal(found.ids, expected.rows)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    with pytest.raises(ConfigError, match="metric 'cosine', and this asks with metric 'inner_product'"):
        search_index(index, queries, 5, metric="inner_product")
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        build_index([1], drawn(1), metric="cosin")


def test_layout_one_is_still_read(folder) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for later in ("metric", "made_by", "sha256"):
        del manifest["metadata"][later]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1}))
    assert (load_index(folder).metric, load_index(folder).made_by) == ("inner_product", None)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 9}))
    with pytest.raises(CorruptArtifactError, match="layout 9"):
        load_index(folder)


@pytest.mark.parametrize("ids", [np.arange(4) + 2**40, np.array(["a", "b", "c", "d"])], ids=["numbers", "texts"])
@pytest.mark.parametrize("keep", [False, True])
def test_k_out_of_range_and_an_emptied_index(tmp_path, ids, keep) -> None:
    index = build_index(ids, drawn(4), code=Int8PerVector(WIDTH), keep_vectors=keep, sample=0)
    for k in (0, -3):
        with pytest.raises(ConfigError, match=f"k is {k}"):
            search_index(index, drawn(1), k)
    with pytest.raises(ConfigError, match="width 5"):
        search_index(index, np.ones((1, 5), np.float32), 1)
    missing = "" if ids.dtype.kind == "U" else -1
    found = search_index(delete(index, ids[:1]), drawn(2), 6)
    assert found.ids.shape == (2, 6) and (found.ids[:, 3:] == missing).all() and (found.scores[:, 3:] == -np.inf).all()
    assert set(found.ids[0, :3].tolist()) == set(ids[1:].tolist())
    save_index(tmp_path / "empty", delete(index, ids))
    for empty in (delete(index, ids), load_index(tmp_path / "empty"), load_index(tmp_path / "empty", mapped=False)):
        assert len(empty) == 0
        found = search_index(empty, drawn(2), 3)
        assert (found.ids == missing).all() and (found.scores == -np.inf).all()
        with pytest.raises(DataError):
            delete(empty, ids[:1])
        assert search_index(add(empty, ids[:1], drawn(1)), drawn(1), 2).ids.tolist() == [[ids[0].item(), missing]]
