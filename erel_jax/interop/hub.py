"""From what a person types to a folder on disk: a local folder, or a Hub id pinned to one commit.

A Hub id is resolved to its 40-digit commit first and downloaded at that commit, so the same name cannot mean two
things in one run. Only weights in safetensors and the small files beside them are fetched, never pickles or code.
Offline (`HF_HUB_OFFLINE=1`) the newest commit in the local cache is used.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from erel_jax.errors import CheckpointError, ConfigError, ErelError

WANTED = [
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an encoder comes from.

    Attributes:
        name: what was asked for, a Hub id or a folder.
        folder: its files on disk.
        revision: 40-digit commit of a Hub snapshot, None for a plain folder.
        link_root: folder into which the files may be links (the repository in the Hub cache), else None.
    """

    name: str
    folder: Path
    revision: str | None = None
    link_root: Path | None = None


def locate(id_or_folder: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Finds a folder, downloading a Hub snapshot where the name is not a local folder.

    Args:
        id_or_folder: a folder in the Hugging Face layout, or a Hub id such as `"google/vit-base-patch16-224"`.
        revision: branch, tag or commit of a Hub id; the main branch when None.

    Raises:
        ConfigError: neither a folder nor a usable Hub id, or the Hub cannot be reached and the cache does not have it.
        CheckpointError: the repository has no safetensors weights.
    """
    path = Path(id_or_folder).expanduser()
    if str(id_or_folder) and path.is_dir():
        return _local(str(id_or_folder), path)
    name = str(id_or_folder)
    if path.exists() or not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise ConfigError(
            f"{name!r} is not a folder and not a Hub id (owner/name). Give a folder with config.json and "
            "model.safetensors, or an id of huggingface.co."
        )
    return _snapshot(name, revision)


def _local(name: str, path: Path) -> Source:
    """A plain folder, or a snapshot inside the Hub cache, whose files are links into its repository folder."""
    absolute = path.absolute()
    if absolute.parent.name == "snapshots" and _COMMIT.fullmatch(absolute.name):
        return Source(name=name, folder=path, revision=absolute.name, link_root=absolute.parent.parent)
    return Source(name=name, folder=path)


def _snapshot(name: str, revision: str | None) -> Source:
    import huggingface_hub
    from huggingface_hub import constants

    refused = "offline (HF_HUB_OFFLINE is set)"
    if not constants.HF_HUB_OFFLINE:
        try:
            info = huggingface_hub.HfApi().model_info(name, revision=revision)
            _check_files(name, [file.rfilename for file in info.siblings or []])
            return _pinned(name, huggingface_hub.snapshot_download(name, revision=info.sha, allow_patterns=WANTED))
        except ErelError:
            raise
        except Exception as error:  # the client raises many kinds; all mean that the cache is the last hope
            refused = f"{type(error).__name__}: {error}"
    try:
        cached = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=WANTED, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the Hub cannot give {name!r} ({refused}) and the local cache does not have it. Check the id, or download "
            f"it where there is a network (`hf download {name}`), or give a local folder."
        ) from error
    return _pinned(name, cached)


def _pinned(name: str, folder: str) -> Source:
    found = _local(name, Path(folder))
    if found.revision is None:
        raise ConfigError(f"{name!r} could not be pinned to a commit: {folder} is not a snapshot of the Hub cache.")
    return found


def _check_files(name: str, files: list[str]) -> None:
    if not any(re.fullmatch(r"model.*\.safetensors", file) for file in files):
        pickled = [file for file in files if file.endswith((".bin", ".pt", ".h5", ".msgpack", ".ckpt"))]
        raise CheckpointError(
            f"{name!r} has no model.safetensors on the Hub, only {', '.join(pickled[:5]) or 'other files'}. "
            "Pickled weights are not read; choose a model with safetensors, or convert it where that is safe."
        )
