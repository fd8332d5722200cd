"""What a sentence-transformers folder says besides the encoder: how to pool and how long texts may be.

Such a folder lists its steps in `modules.json`: an encoder, a pooling with its own `config.json`, often a
normalization. Embeddings of this package are never normalized, so that step needs nothing here. A step that would
change the embedding (a dense layer, for example) or that is not known is refused rather than skipped.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erel_jax.errors import ConfigError, CorruptArtifactError
from erel_jax.folders import safe_join
from erel_jax.interop.safetensors_folder import read_json

MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}


@dataclass(frozen=True, kw_only=True)
class SentenceSettings:
    """Settings of a folder; None where it says nothing.

    Attributes:
        pooling: "cls" or "mean".
        max_length: longest text in tokens.
        lowercase: whether texts are lower-cased before the tokenizer.
    """

    pooling: str | None = None
    max_length: int | None = None
    lowercase: bool = False


def read_settings(folder: str | os.PathLike[str], link_root: Path | None = None) -> SentenceSettings:
    """Reads `modules.json` and the files it names.

    Raises:
        ConfigError: a step or pooling mode is not implemented.
        CorruptArtifactError: a file is damaged, or a path leaves the folder.
    """
    modules = safe_join(folder, "modules.json", link_root=link_root)
    if not modules.is_file():
        return SentenceSettings()
    try:
        steps = json.loads(modules.read_text(encoding="utf-8"))
        if not isinstance(steps, list):
            raise ValueError(f"a JSON {type(steps).__name__}")
        entries = [(str(step["type"]), str(step["path"])) for step in steps]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptArtifactError(f"{modules} is not a list of modules with type and path ({error!r}).") from error
    pooling = None
    for kind, path in entries:
        if path:
            safe_join(folder, path, link_root=link_root)
        name = kind.rpartition(".")[2]
        if not kind.startswith("sentence_transformers.") or name not in ("Transformer", "Pooling", "Normalize"):
            raise ConfigError(
                f"{modules} has a step of type {kind!r}; Transformer, Pooling and Normalize are built in."
            )
        if name == "Pooling":
            pooling = _pooling(safe_join(folder, f"{path}/config.json", link_root=link_root))
        if name == "Transformer" and path:
            raise ConfigError(f"{modules} keeps the encoder in {path!r}; point to that folder itself.")
    limits = safe_join(folder, "sentence_bert_config.json", link_root=link_root)
    document = read_json(limits) if limits.is_file() else {}
    length = document.get("max_seq_length")
    return SentenceSettings(
        pooling=pooling,
        max_length=length if isinstance(length, int) else None,
        lowercase=bool(document.get("do_lower_case", False)),
    )


def _pooling(path: Path) -> str:
    """The one pooling mode of a pooling config, in its old form (booleans) or its new one (`pooling_mode`)."""
    document = read_json(path)
    chosen: Any = document.get("pooling_mode")
    if chosen is None:
        modes = [key for key, value in document.items() if key.startswith("pooling_mode_") and value]
        chosen = [MODES.get(mode, mode) for mode in modes]
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    if len(names) != 1 or names[0] not in MODES.values():
        raise ConfigError(f"{path} pools by {names}; 'cls' or 'mean' alone are implemented.")
    return names[0]


def settings_files(pooling: str, width: int, max_length: int) -> dict[str, Any]:
    """The JSON documents that make a BERT folder a sentence-transformers folder, by path.

    Args:
        pooling: "cls" or "mean".
        width: width D of the embedding.
        max_length: longest text in tokens.
    """
    prefix = "sentence_transformers.models"
    return {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{prefix}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{prefix}.Pooling"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            **{key: mode == pooling for key, mode in MODES.items()},
        },
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
    }
