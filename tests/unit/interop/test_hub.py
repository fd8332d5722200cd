"""Names to folders: local ones, cached snapshots, and the Hub pinned to a commit."""

from fnmatch import fnmatch
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from erel_jax.errors import CheckpointError, ConfigError
from erel_jax.interop.hub import WANTED, locate
from erel_jax.interop.tokenizer import SLOW_FILES

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A Hub that answers from memory; what was asked of it is recorded."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    asked = {"files": ["config.json", "model.safetensors", "pytorch_model.bin", "modeling_evil.py"], "calls": []}

    def model_info(self, name, revision=None):
        asked["calls"].append(("info", name, revision))
        return SimpleNamespace(sha=SHA, siblings=[SimpleNamespace(rfilename=f) for f in asked["files"]])

    def download(name, *, revision, allow_patterns, local_files_only=False):
        asked["calls"].append(("download", name, revision, local_files_only))
        asked["patterns"] = allow_patterns
        return str(snapshot)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_branch_is_resolved_to_its_commit_before_anything_is_downloaded(online):
    source = locate("owner/name", revision="main")
    assert online["calls"] == [("info", "owner/name", "main"), ("download", "owner/name", SHA, False)]
    assert source.revision == SHA
    assert source.link_root == source.folder.parent.parent


def test_neither_pickles_nor_code_are_asked_for(online):
    locate("owner/name")
    assert online["patterns"] == WANTED
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in WANTED)


def test_a_repository_of_pickles_is_refused_before_the_download(online):
    online["files"] = ["config.json", "pytorch_model.bin"]
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        locate("owner/name")
    assert len(online["calls"]) == 1


def test_an_unreachable_hub_falls_back_to_the_cache(online, monkeypatch):
    def unreachable(self, name, revision=None):
        raise RuntimeError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    assert locate("owner/name").revision == SHA
    assert online["calls"] == [("download", "owner/name", None, True)]


def test_offline_without_a_cached_copy_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE.*hf download owner/name"):
        locate("owner/name")


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    source = locate(tmp_path)
    assert (source.folder, source.revision, source.link_root) == (tmp_path, None, None)


def test_a_folder_inside_the_cache_keeps_its_commit(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    assert locate(snapshot).revision == SHA
    assert locate(snapshot).link_root == tmp_path / "models--a--b"


@pytest.mark.parametrize("name", ["./missing", "/missing", "a/b/c", "", "../up", "owner/na me", "https://x.y/z"])
def test_what_is_neither_folder_nor_id_is_refused(name):
    with pytest.raises(ConfigError, match="not a folder"):
        locate(name)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        locate(tmp_path / "model.safetensors")


def test_whatever_is_read_of_a_folder_is_asked_for():
    """A file that is read but not fetched would count only in local folders: prompts, slow vocabularies."""
    read = ["config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json", *SLOW_FILES]
    assert [name for name in read if not any(fnmatch(name, pattern) for pattern in WANTED)] == []
