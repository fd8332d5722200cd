"""Weight folders: what is read, and what is refused before a byte of it is believed."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from erel_jax.errors import CheckpointError, CorruptArtifactError
from erel_jax.interop.safetensors_folder import INDEX, WEIGHTS, TensorFolder, read_json


class Canary:
    """Leaves a file behind if anything unpickles it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_one_file(tmp_path):
    save_file({"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(2, np.float16)}, tmp_path / WEIGHTS)
    tensors = TensorFolder(tmp_path)
    assert tensors.names == ["a", "b"]
    assert tensors.shape("b") == (2, 3)
    np.testing.assert_array_equal(tensors.read("b"), [[0, 1, 2], [3, 4, 5]])
    assert tensors.read("a").dtype == np.float16
    assert list(tensors.digests()) == [WEIGHTS]


def test_shards(tmp_path):
    (tmp_path / "deep").mkdir()
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "one.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, tmp_path / "deep" / "two.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "deep/two.safetensors"})
    tensors = TensorFolder(tmp_path)
    assert tensors.names == ["a", "b"]
    assert {name: tensors.read(name).tolist() for name in "ab"} == {"a": [1, 1], "b": [0, 0, 0]}
    assert sorted(tensors.digests()) == ["deep/two.safetensors", "one.safetensors"]


@pytest.mark.parametrize(
    "path", ["../outside.safetensors", "x/../../outside.safetensors", "ABSOLUTE", "link.safetensors"]
)
def test_an_index_cannot_lead_out(tmp_path, path):
    outside, folder = tmp_path / "outside.safetensors", tmp_path / "model"
    folder.mkdir()
    save_file({"a": np.ones(2, np.float32)}, outside)
    (folder / "link.safetensors").symlink_to(outside)
    write_index(folder, {"a": str(outside) if path == "ABSOLUTE" else path})
    with pytest.raises(CorruptArtifactError, match="refused"):
        TensorFolder(folder)


def test_a_weight_file_that_is_a_link_out_is_refused_unless_its_root_is_allowed(tmp_path):
    blobs, folder = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots"
    blobs.mkdir(parents=True)
    folder.mkdir()
    save_file({"a": np.ones(2, np.float32)}, blobs / "0123")
    (folder / WEIGHTS).symlink_to(blobs / "0123")
    with pytest.raises(CorruptArtifactError, match="symbolic link"):
        TensorFolder(folder)
    assert TensorFolder(folder, link_root=tmp_path / "repo").names == ["a"]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "weights.bin"}, "only .safetensors"),
        ({"a": "gone.safetensors"}, "missing"),
        ({}, "no files"),
        ([1], "weight_map"),
        ({"a": 3}, "weight_map"),
    ],
)
def test_a_useless_index_is_named(tmp_path, weight_map, message):
    write_index(tmp_path, weight_map)
    with pytest.raises(CorruptArtifactError, match=message):
        TensorFolder(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for name in ("one", "two"):
        save_file({"a": np.ones(2, np.float32)}, tmp_path / f"{name}.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    with pytest.raises(CorruptArtifactError, match="twice"):
        TensorFolder(tmp_path)


def damaged():
    whole = save({"a": np.arange(64, dtype=np.float32)})
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode()
    return {
        "empty": b"",
        "truncated": whole[:-5],
        "half": whole[: len(whole) // 2],
        "huge header": (2**60).to_bytes(8, "little") + b"{}",
        "short offsets": len(header).to_bytes(8, "little") + header + bytes(12),
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    }


@pytest.mark.parametrize("kind", sorted(damaged()))
def test_damaged_files_are_one_error(tmp_path, kind):
    (tmp_path / WEIGHTS).write_bytes(damaged()[kind])
    with pytest.raises(CorruptArtifactError, match=WEIGHTS):
        TensorFolder(tmp_path)


def test_a_pickle_under_a_safe_name_is_not_executed(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / WEIGHTS).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(CorruptArtifactError):
        TensorFolder(tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "last.ckpt"])
def test_pickles_alone_are_refused_with_the_way_to_convert(tmp_path, name):
    canary = tmp_path / "canary"
    (tmp_path / name).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(CheckpointError, match=rf"{name}.*save_pretrained"):
        TensorFolder(tmp_path)
    assert not canary.exists()


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="neither"):
        TensorFolder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_no_object_is_corrupt(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=r"config\.json"):
        read_json(tmp_path / "config.json")


def test_every_float_type_scalars_and_empty_tensors_are_read_as_stored(tmp_path):
    stored = {
        str(dtype.__name__): np.array([[1.5, -2.0]], dtype) for dtype in (np.float64, np.float16, ml_dtypes.bfloat16)
    }
    stored |= {"scalar": np.array(3.0, np.float32), "empty": np.zeros((0, 4), np.float32)}
    save_file(stored, tmp_path / WEIGHTS, metadata={"format": "pt"})
    tensors = TensorFolder(tmp_path)
    assert tensors.names == sorted(stored)
    for name, value in stored.items():
        found = tensors.read(name)
        assert (found.dtype, found.shape) == (value.dtype, value.shape) == (value.dtype, tensors.shape(name))
        np.testing.assert_array_equal(found, value)


def test_a_file_cut_after_it_was_opened_is_damaged(tmp_path):
    save_file({"a": np.ones(64, np.float32)}, tmp_path / WEIGHTS)
    tensors = TensorFolder(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(CorruptArtifactError, match="ends early"):
        tensors.read("a")
