"""Pictures are read from folders and archives, and from nowhere else."""

import os
import zipfile

import pytest

from erel_jax.data import image_sources
from erel_jax.data.image_sources import MissingImage, Pictures
from erel_jax.data.images import BadImage
from erel_jax.errors import DataError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(b"inside")
    (tmp_path / "secret.png").write_bytes(b"outside")
    os.symlink(tmp_path / "secret.png", root / "link.png")
    return root


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("sub/a.png", b"inside")
        stream.writestr("big.png", b"\0" * 5000)
        stream.writestr("../evil.png", b"evil")
    return path


def test_reads_a_file_of_a_folder(folder) -> None:
    with Pictures(folder) as pictures:
        assert pictures.read("sub/a.png") == b"inside"


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "link.png", "/etc/hostname", "a\\b", ""])
def test_names_that_leave_the_folder_are_refused(name: str, folder) -> None:
    with Pictures(folder) as pictures:
        for method in (pictures.read, pictures.stamp):
            with pytest.raises(DataError, match="refused") as caught:
                method(name)
            assert not isinstance(caught.value, BadImage | MissingImage)


@pytest.mark.parametrize("name", ["absent.png", "sub", "sub/absent.png"])
def test_an_absent_file_is_missing_not_damaged(name: str, folder, archive) -> None:
    for root in (folder, archive):
        with Pictures(root) as pictures, pytest.raises(MissingImage, match=name):
            pictures.read(name)


def test_reads_a_member_without_unpacking(archive, tmp_path) -> None:
    before = sorted(tmp_path.iterdir())
    with Pictures(archive) as pictures:
        assert pictures.read("sub/a.png") == b"inside"
        assert pictures.read("../evil.png") == b"evil"  # a member of that name; nothing outside is touched
    assert sorted(tmp_path.iterdir()) == before


def test_a_member_beyond_the_limit_is_refused(archive, folder, monkeypatch) -> None:
    monkeypatch.setattr(image_sources, "MAX_FILE_BYTES", 4999)
    (folder / "big.png").write_bytes(b"\0" * 5000)
    for root in (archive, folder):
        with Pictures(root) as pictures, pytest.raises(BadImage, match="larger than 4999"):
            pictures.read("big.png")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path, monkeypatch) -> None:
    """The declared size is 10 bytes; the stream holds 5000."""
    path = tmp_path / "lie.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        stream.writestr("big.png", b"\0" * 5000)
    data = path.read_bytes().replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    with Pictures(path) as pictures, pytest.raises(BadImage):
        pictures.read("big.png")


def test_a_damaged_member_is_a_bad_image(archive) -> None:
    data = bytearray(archive.read_bytes())
    position = data.index(b"sub/a.png") + len("sub/a.png")
    data[position + 2] ^= 0xFF
    archive.write_bytes(data)
    with Pictures(archive) as pictures, pytest.raises(BadImage, match="damaged in the archive"):
        pictures.read("sub/a.png")


def test_a_damaged_lzma_member_is_a_bad_image(tmp_path) -> None:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as stream:
        stream.writestr("a.png", bytes(range(256)) * 9)
    data = bytearray(path.read_bytes())
    position = data.index(b"a.png") + len("a.png")
    data[position + 4 : position + 40] = b"\xff" * 36
    path.write_bytes(data)
    with Pictures(path) as pictures, pytest.raises(BadImage, match="damaged in the archive"):
        pictures.read("a.png")


def test_a_pipe_is_not_waited_for(folder) -> None:
    os.mkfifo(folder / "pipe.png")
    with Pictures(folder) as pictures, pytest.raises(BadImage, match="no regular file"):
        pictures.read("pipe.png")


@pytest.mark.parametrize("kind", ["absent", "text", "truncated"])
def test_a_root_that_cannot_be_read_is_named(kind: str, archive, tmp_path) -> None:
    path = tmp_path / f"{kind}.zip"
    if kind == "text":
        path.write_text("not an archive")
    if kind == "truncated":
        path.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(DataError, match=f"{kind}.zip"):
        Pictures(path)


def test_the_stamp_changes_with_the_file(folder, archive) -> None:
    with Pictures(folder) as pictures:
        first = pictures.stamp("sub/a.png")
        (folder / "sub" / "a.png").write_bytes(b"other content")
        assert pictures.stamp("sub/a.png") != first
        assert pictures.stamp("absent.png") == "missing"
    with Pictures(archive) as pictures:
        assert pictures.stamp("sub/a.png") != pictures.stamp("big.png")
        assert pictures.stamp("absent.png") == "missing"
