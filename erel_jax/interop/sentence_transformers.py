"""What a sentence-transformers folder says besides the encoder: how to pool, how long texts may be, which prompts.

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
from erel_jax.interop.prompts import PLACE, Prompts
from erel_jax.interop.safetensors_folder import read_json

MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}
_NEW_NAMES = {"lasttoken": "last"}
_FILE = "config_sentence_transformers.json"
# Prompts there are words before the text; those with words after it stand under keys of this package.
_OWN, _OWN_DEFAULT = "erel_jax_prompts", "erel_jax_default_prompt"


@dataclass(frozen=True, kw_only=True)
class SentenceSettings:
    """Settings of a folder; None where it says nothing.

    Attributes:
        pooling: "cls", "mean" or "last".
        max_length: longest text in tokens.
        lowercase: whether texts are lower-cased before the tokenizer.
    """

    pooling: str | None = None
    max_length: int | None = None
    lowercase: bool = False


def read_settings(folder: str | os.PathLike[str], link_root: Path | None = None) -> SentenceSettings:
    """Reads `modules.json` and the files it names.

    Raises:
        ConfigError: a step or pooling mode is not implemented, or a value is of another kind than meant.
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
            pooling = _pooling(safe_join(folder, f"{path}/config.json", link_root=link_root), folder, link_root)
        if name == "Transformer" and path:
            raise ConfigError(f"{modules} keeps the encoder in {path!r}; point to that folder itself.")
    limits = safe_join(folder, "sentence_bert_config.json", link_root=link_root)
    document = read_json(limits) if limits.is_file() else {}
    return SentenceSettings(
        pooling=pooling, max_length=_length(limits, document), lowercase=_lowercase(limits, document)
    )


def _length(path: Path, document: dict[str, Any]) -> int | None:
    length = document.get("max_seq_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise ConfigError(f"{path} has max_seq_length = {length!r}, expected a positive integer or null.")
    return length


def _lowercase(path: Path, document: dict[str, Any]) -> bool:
    value = document.get("do_lower_case")
    if not isinstance(value, bool | None):
        raise ConfigError(f"{path} has do_lower_case = {value!r}, expected true or false.")
    return bool(value)


def read_prompts(folder: str | os.PathLike[str], link_root: Path | None = None) -> Prompts:
    """The prompts of a folder, none where it has no file of them.

    Raises:
        CorruptArtifactError: prompts that are no texts, or a default that is not among them.
    """
    path = safe_join(folder, _FILE, link_root=link_root)
    document = read_json(path) if path.is_file() else {}
    before, own = document.get("prompts") or {}, document.get(_OWN) or {}
    if not all(isinstance(group, dict) for group in (before, own)):
        raise CorruptArtifactError(f"{path} has prompts {before!r}, expected an object of names and texts.")
    templates = {name: f"{words}{PLACE}" if isinstance(words, str) else words for name, words in before.items()}
    try:
        default = document.get(_OWN_DEFAULT) or document.get("default_prompt_name")
        return Prompts(templates={**templates, **own}, default=default)
    except ConfigError as error:
        raise CorruptArtifactError(f"{path}: {error}") from error


def _pooling(path: Path, folder: str | os.PathLike[str], link_root: Path | None) -> str:
    """The one pooling mode of a pooling config, in its old form (booleans) or its new one (`pooling_mode`)."""
    document = read_json(path)
    if document.get("include_prompt") is False and any(
        template != PLACE for template in read_prompts(folder, link_root).templates.values()
    ):
        raise ConfigError(f"{path} pools without the prompt (include_prompt false), which is not implemented.")
    chosen: Any = document.get("pooling_mode")
    if chosen is None:
        modes = [key for key, value in document.items() if key.startswith("pooling_mode_") and value]
        chosen = [MODES.get(mode, mode) for mode in modes]
    given = chosen if isinstance(chosen, list) else [chosen]
    names = [_NEW_NAMES.get(name, name) if isinstance(name, str) else name for name in given]
    if len(names) != 1 or names[0] not in MODES.values():
        raise ConfigError(f"{path} pools by {names}; 'cls', 'mean' or 'last' alone are implemented.")
    return names[0]


def settings_files(pooling: str, width: int, max_length: int) -> dict[str, Any]:
    """The JSON documents that make a text encoder's folder a sentence-transformers folder, by path.

    Args:
        pooling: "cls", "mean" or "last".
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


def prompt_files(prompts: Prompts) -> dict[str, Any]:
    """The JSON document of prompts, by path; the inverse of `read_prompts`. Nothing where there are none."""
    if not prompts.templates:
        return {}
    before = {name: words.removesuffix(PLACE) for name, words in prompts.templates.items() if words.endswith(PLACE)}
    own = {name: words for name, words in prompts.templates.items() if name not in before}
    document: dict[str, Any] = {"prompts": before, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    if prompts.default is not None:
        document["default_prompt_name" if prompts.default in before else _OWN_DEFAULT] = prompts.default
    return {_FILE: {**document, _OWN: own} if own else document}


def understood(prompts: Prompts) -> bool:
    """Whether sentence-transformers would use the default prompt as this package does: nothing follows the text."""
    return not prompts.around[1]
