"""Output folders, run locks, untrusted relative paths."""

import os
import socket
import subprocess
import sys

import pytest

from erel_jax import folders
from erel_jax.errors import ConfigError, CorruptArtifactError, DataError


def test_writable_folder_is_created_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    assert folders.check_writable(folder) == folder
    assert os.listdir(folder) == []


def test_read_only_folder_is_refused_whoever_asks(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        for target in (folder, folder / "deeper" / "still"):
            with pytest.raises(ConfigError, match=r"read-only.*--out"):
                folders.check_writable(target)
    finally:
        folder.chmod(0o755)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="is a file, expected a folder"):
            folders.check_writable(target)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that refuses files (/proc)")
def test_a_file_system_that_refuses_files_is_noticed():
    with pytest.raises(ConfigError, match="cannot be written"):
        folders.check_writable("/proc/self")


def test_second_process_is_refused_with_pid_and_host(tmp_path):
    code = "import sys; from erel_jax.folders import RunLock\nwith RunLock(sys.argv[1]): print('held')"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with folders.RunLock(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode != 0
        assert f"process {os.getpid()} on host {socket.gethostname()}" in second.stderr
    third = subprocess.run(command, capture_output=True, text=True)
    assert third.stdout == "held\n"


def test_lock_is_free_after_an_exception(tmp_path):
    with pytest.raises(KeyError), folders.RunLock(tmp_path):
        raise KeyError
    with folders.RunLock(tmp_path) as lock:
        assert lock.path.exists()


@pytest.mark.parametrize(
    "relative", ["", "..", "../x", "a/../../x", "/etc/passwd", "a\\..\\x", "C:/x", "a\0b", "link/x", "link"]
)
def test_paths_that_leave_are_refused(tmp_path, relative):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(CorruptArtifactError, match="refused"):
        folders.safe_join(root, relative)
    with pytest.raises(DataError):
        folders.safe_join(root, relative, error=DataError)


@pytest.mark.parametrize("relative", ["x", "a/b.safetensors", "a..b", "inner/x", "..."])
def test_paths_that_stay_are_joined(tmp_path, relative):
    (tmp_path / "a").mkdir()
    (tmp_path / "inner").symlink_to(tmp_path / "a")
    assert folders.safe_join(tmp_path, relative) == tmp_path / relative


def test_links_into_a_named_second_folder_are_allowed(tmp_path):
    """The Hugging Face cache stores snapshots as links to blobs."""
    snapshot, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "f").write_text("x")
    (snapshot / "model.safetensors").symlink_to("../../blobs/f")
    with pytest.raises(CorruptArtifactError):
        folders.safe_join(snapshot, "model.safetensors")
    assert folders.safe_join(snapshot, "model.safetensors", link_root=tmp_path).read_text() == "x"


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EREL_CACHE", str(tmp_path / "mine"))
    assert folders.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("EREL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folders.cache_folder() == tmp_path / "erel_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders.cache_folder() == tmp_path / ".cache" / "erel_jax"


def test_a_backslash_is_a_letter_where_it_is_said_to_be(tmp_path):
    """Of names that a listing gave; it still parts no folders, and nothing leads out."""
    assert folders.safe_join(tmp_path, "a\\b.png", backslash=True) == tmp_path / "a\\b.png"
    for relative in ("..\\..\\x/../../y", "../a\\b", "/a\\b"):
        with pytest.raises(CorruptArtifactError, match="refused"):
            folders.safe_join(tmp_path, relative, backslash=True)
