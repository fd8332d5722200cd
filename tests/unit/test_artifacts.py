"""Artifacts are whole or absent, and damage is named."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from erel_jax import artifacts
from erel_jax.errors import ConfigError, CorruptArtifactError


def make(folder, name="states", **kwargs):
    with artifacts.ArtifactDir(folder / name, kind="test", metadata={"git": "abc"}, **kwargs) as artifact:
        artifact.file("a.bin").write_bytes(b"hello")
        artifact.file("deep/b.bin").write_bytes(bytes(range(256)))
    return folder / name


def test_manifest_lists_sizes_and_digests(tmp_path):
    path = make(tmp_path)
    manifest = artifacts.verify_manifest(path, kind="test")
    assert manifest.files == {
        "a.bin": (5, hashlib.sha256(b"hello").hexdigest()),
        "deep/b.bin": (256, hashlib.sha256(bytes(range(256))).hexdigest()),
    }
    assert manifest.metadata == {"git": "abc"}
    assert os.listdir(tmp_path) == ["states"]


@pytest.mark.parametrize("name", ["a.bin", "deep/b.bin"])
@pytest.mark.parametrize("fault", ["flip", "truncate", "empty", "delete"])
def test_every_kind_of_damage_is_named(tmp_path, name, fault):
    path = make(tmp_path)
    file = path / name
    data = bytearray(file.read_bytes())
    if fault == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif fault == "truncate":
        file.write_bytes(data[: len(data) // 2])
    elif fault == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    with pytest.raises(CorruptArtifactError, match=file.name):
        artifacts.verify_manifest(path)


def test_size_check_misses_a_flip_and_off_misses_everything(tmp_path):
    path = make(tmp_path)
    (path / "a.bin").write_bytes(b"hellp")
    artifacts.verify_manifest(path, "size")
    (path / "a.bin").unlink()
    artifacts.verify_manifest(path, "off")
    with pytest.raises(CorruptArtifactError, match="missing"):
        artifacts.verify_manifest(path, "size")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"files": 3}', '{"manifest_schema": 1}', "\x80"])
def test_garbled_manifest_is_one_error(tmp_path, text):
    path = make(tmp_path)
    (path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json"):
        artifacts.verify_manifest(path)


def test_missing_manifest_and_wrong_kind(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptArtifactError, match=r"no manifest\.json"):
        artifacts.verify_manifest(tmp_path / "empty")
    with pytest.raises(CorruptArtifactError, match="expected 'checkpoint'"):
        artifacts.verify_manifest(make(tmp_path), kind="checkpoint")


def test_newer_manifest_schema_is_refused(tmp_path):
    path = make(tmp_path)
    document = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(document | {"manifest_schema": 99}))
    with pytest.raises(CorruptArtifactError, match="schema 99"):
        artifacts.read_manifest(path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "deep/../../x"])
def test_manifest_that_points_outside_is_refused(tmp_path, name):
    path = make(tmp_path)
    document = json.loads((path / "manifest.json").read_text())
    document["files"][name] = {"size": 1, "sha256": "0"}
    (path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(CorruptArtifactError, match="refused"):
        artifacts.verify_manifest(path)


def test_exception_leaves_nothing_and_keeps_the_old(tmp_path):
    with pytest.raises(KeyError), artifacts.ArtifactDir(tmp_path / "x", kind="test") as artifact:
        artifact.file("a").write_bytes(b"1")
        raise KeyError
    assert os.listdir(tmp_path) == []
    path = make(tmp_path)
    with pytest.raises(KeyError), artifacts.ArtifactDir(path, kind="test", overwrite=True) as artifact:
        raise KeyError
    assert set(artifacts.verify_manifest(path).files) == {"a.bin", "deep/b.bin"}


def test_existing_is_refused_unless_overwritten(tmp_path):
    path = make(tmp_path)
    with pytest.raises(ConfigError, match="exists already"):
        make(tmp_path)
    with artifacts.ArtifactDir(path, kind="test", overwrite=True) as artifact:
        artifact.file("c.bin").write_bytes(b"new")
    assert set(artifacts.verify_manifest(path).files) == {"c.bin"}
    assert os.listdir(tmp_path) == ["states"]


@pytest.mark.parametrize("failing_call", [1, 2])
def test_failed_rename_leaves_no_artifact(tmp_path, monkeypatch, failing_call):
    """Disk full at the manifest's own rename (os.replace) or at the final one (os.rename)."""

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace" if failing_call == 1 else "rename", full)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path)
    assert os.listdir(tmp_path) == []


def test_failed_overwrite_keeps_the_old(tmp_path, monkeypatch):
    path = make(tmp_path)
    rename = os.rename

    def once_full(source, target):
        if ".tmp-" in str(source):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", once_full)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path, overwrite=True)
    artifacts.verify_manifest(path)
    assert os.listdir(tmp_path) == ["states"]


def test_symbolic_link_inside_an_artifact_is_refused(tmp_path):
    from erel_jax.errors import ErelError

    with pytest.raises(ErelError, match="symbolic link"), artifacts.ArtifactDir(tmp_path / "x", kind="t") as artifact:
        (artifact.path / "link").symlink_to("/etc/hostname")
    assert os.listdir(tmp_path) == []


def test_killed_writer_leaves_no_artifact_and_is_cleaned(tmp_path):
    code = (
        "import sys, time\n"
        "from erel_jax.artifacts import ArtifactDir\n"
        "with ArtifactDir(sys.argv[1], kind='t') as a:\n"
        "    a.file('big').write_bytes(b'0' * 10**6)\n"
        "    print('filled', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "filled\n"
    assert artifacts.recover(tmp_path) == []
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "x").exists()
    assert [line.split(":")[0] for line in artifacts.recover(tmp_path)] == [f"x.tmp-{child.pid}"]
    assert os.listdir(tmp_path) == []


def test_recover_moves_an_orphaned_old_artifact_back(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = make(tmp_path)
    path.rename(tmp_path / f"states.old-{dead.pid}")
    assert artifacts.recover(tmp_path) == [f"states: moved back from states.old-{dead.pid}"]
    artifacts.verify_manifest(path)


def test_recover_touches_nothing_else(tmp_path):
    for name in ("plain", "x.tmp-abc", f"y.tmp-{os.getpid()}"):
        (tmp_path / name).mkdir()
    assert artifacts.recover(tmp_path) == []
    assert artifacts.recover(tmp_path / "missing") == []
    assert len(os.listdir(tmp_path)) == 3


def test_single_file_is_replaced_whole(tmp_path, monkeypatch):
    path = artifacts.write_text_atomic(tmp_path / "r.json", "old ∆")
    assert path.read_text("utf-8") == "old ∆"
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        artifacts.write_bytes_atomic(path, b"new")
    assert path.read_text("utf-8") == "old ∆"
    assert os.listdir(tmp_path) == ["r.json"]


def test_verifying_reads_fast_enough(tmp_path):
    with artifacts.ArtifactDir(tmp_path / "big", kind="t") as artifact:
        artifact.file("zeros").write_bytes(bytes(50 * 10**6))
    start = time.perf_counter()
    artifacts.verify_manifest(tmp_path / "big", "full")
    assert time.perf_counter() - start < 5


def test_only_its_own_kind_or_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.bin").write_bytes(b"precious")
    (tmp_path / "file").write_bytes(b"precious")
    with artifacts.ArtifactDir(tmp_path / "other", kind="other") as artifact:
        artifact.file("a.bin").write_bytes(b"precious")
    for name in ("mine", "file", "other"):
        before = sorted(path.name for path in tmp_path.rglob("*"))
        with pytest.raises(ConfigError, match="expected an artifact of kind 'test'"):
            make(tmp_path, name, overwrite=True)
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    (make(tmp_path) / "manifest.json").write_text("{")
    for name in ("empty", "states"):
        artifacts.verify_manifest(make(tmp_path, name, overwrite=True), kind="test")


def test_behind_a_link_the_artifact_itself_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(make(tmp_path))
    (tmp_path / "states" / "more").write_text("x")
    make(tmp_path, "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and not (tmp_path / "states" / "more").exists()
    assert sorted(os.listdir(tmp_path)) == ["link", "states"]


def test_places_where_no_folder_can_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="below a file"):
        make(tmp_path / "file")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("", ".", tmp_path):
        with (
            pytest.raises(ConfigError, match="runs in"),
            artifacts.ArtifactDir(name, kind="t", overwrite=True) as artifact,
        ):
            artifact.file("x").write_text("x")
