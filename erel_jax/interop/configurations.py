"""Encoder configs from `config.json`, and back.

Only keys that change the function are read. A key whose value this package does not implement (relative positions, a
decoder, code from the repository) is refused, because ignoring it would compute something else. The families
themselves are in `erel_jax.interop.families`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erel_jax.errors import ConfigError, CorruptArtifactError, suggest
from erel_jax.interop.families import FAMILIES, WHOLE, Family


def refuse_code(document: Mapping[str, Any], path: str | Path) -> None:
    """Refuses a JSON document that names Python code of its repository.

    Raises:
        CorruptArtifactError: the document has `auto_map`.
    """
    if code := document.get("auto_map"):
        named = sorted(map(str, code)) if isinstance(code, Mapping | list) else code
        raise CorruptArtifactError(
            f"{path} asks for code from its repository (auto_map: {named}), which is never run. "
            "Use a model whose architecture is built in."
        )


def towers(document: Mapping[str, Any], path: str | Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """The encoders that a `config.json` describes.

    Args:
        document: the parsed file.
        path: its path, for messages.

    Returns:
        Modality to (model type, that tower's own document). A CLIP model gives "text" and "image", others one.

    Raises:
        ConfigError: the model type is unknown; the message lists the known ones.
        CorruptArtifactError: the configuration asks for code.
    """
    refuse_code(document, path)
    kind, known = document.get("model_type"), [*WHOLE, *FAMILIES]
    if kind is None:
        raise ConfigError(f"{path} has no model_type. {suggest('', known)}")
    if not isinstance(kind, str) or kind not in known:
        raise ConfigError(f"{path}: unknown model_type {kind!r}. {suggest(str(kind), known)}")
    if kind in WHOLE:
        return WHOLE[kind](document)
    return {FAMILIES[kind].modality: (kind, dict(document))}


def family_of(config: Any) -> Family:
    """The family whose encoders have such configs.

    Raises:
        ConfigError: the config is of no known family.
    """
    for family in FAMILIES.values():
        if type(config) is family.config:
            return family
    raise ConfigError(f"got a {type(config).__name__}, expected the config of a registered encoder family.")


def document_of(config: Any) -> dict[str, Any]:
    """The `config.json` of an encoder config: the inverse of a family's reader.

    Raises:
        ConfigError: the config is of no known family.
    """
    return family_of(config).write(config)
