"""Encoders to Hugging Face folders that load here and in transformers with equal outputs."""

import json
import os
from pathlib import Path
from typing import Any

import jax
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from erel_jax.artifacts import MANIFEST_NAME, ArtifactDir
from erel_jax.encoders import Encoder
from erel_jax.errors import CheckpointError, ConfigError
from erel_jax.interop.configurations import document_of, family_of
from erel_jax.interop.prompts import Prompts
from erel_jax.interop.safetensors_folder import WEIGHTS, read_json
from erel_jax.interop.sentence_transformers import MODES, prompt_files, settings_files, understood
from erel_jax.interop.weights import write_tensors


def save_encoder(
    folder: str | os.PathLike[str],
    encoder: Encoder,
    params: Any,
    tokenizer_json: str | None = None,
    preprocessor: dict[str, Any] | None = None,
    *,
    prompts: Prompts | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a folder with `config.json`, `model.safetensors` and, where given, the preprocessing beside them.

    The folder appears whole or not at all, with a `manifest.json` of digests. A text encoder that pools by the mean,
    by its first or by its last token also gets the files that make it a sentence-transformers folder, unless its
    default prompt goes on after the text, which that library cannot say.

    Args:
        folder: the folder to make.
        encoder: the tower.
        params: its parameters as plain arrays: merge adapters and dequantize first.
        tokenizer_json: text of a `tokenizer.json`, see `TextTokenizer.to_json`.
        preprocessor: contents of a `preprocessor_config.json`, see `image_processor.vit_settings`.
        prompts: words around every text, see `TextTokenizer.prompts`.
        overwrite: replace an existing folder.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder exists, the encoder is of no registered family, or it merges tokens or has lost heads,
            which the original's configuration cannot say.
        CheckpointError: parameters without a place in the original model, or a tokenizer with ids that the encoder's
            embedding table lacks.
        NonFiniteError: parameters with NaN or infinity.
    """
    document = document_of(encoder.config)
    _check_sayable(encoder.config, document)
    tensors = write_tensors(params, family_of(encoder.config).weights(encoder.config))
    if tokenizer_json is not None:
        _check_vocabulary(tokenizer_json, encoder)
    document["dtype"] = str(jax.tree.leaves(params)[0].dtype)
    files: dict[str, Any] = {"config.json": document}
    pooling, prompts = getattr(encoder.config, "pooling", ""), prompts or Prompts()
    files |= prompt_files(prompts)
    if pooling in MODES.values() and understood(prompts):
        files |= settings_files(pooling, encoder.width, encoder.config.max_positions)
    if preprocessor is not None:
        files["preprocessor_config.json"] = preprocessor
    with ArtifactDir(folder, kind="encoder", overwrite=overwrite) as artifact:
        for name, content in files.items():
            artifact.file(name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if tokenizer_json is not None:
            artifact.file("tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        save_file(tensors, artifact.file(WEIGHTS), metadata={"format": "pt"})
    return Path(folder)


def _check_vocabulary(tokenizer_json: str, encoder: Encoder) -> None:
    ids = Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True).values()
    rows = getattr(encoder.config, "vocabulary", 0)
    if max(ids, default=-1) >= rows:
        raise CheckpointError(
            f"the tokenizer has ids up to {max(ids)}, the encoder's embedding table has {rows} rows. They do not "
            "belong together; pass the tokenizer of this encoder."
        )


def _check_sayable(config: Any, document: dict[str, Any]) -> None:
    if getattr(config, "merged_tokens", None):
        raise ConfigError(
            f"the encoder merges tokens ({config.merged_tokens}), which its config.json cannot say. Export the encoder "
            "without merging, and merge again after loading: compression.with_merged_tokens."
        )
    width = getattr(config, "head_width", None)
    if width is not None and "head_dim" not in document and width * config.heads != config.width:
        raise ConfigError(
            f"the encoder has {config.heads} heads of width {width} in a model of width {config.width}, which its "
            "config.json cannot say. Prune neurons and layers instead, or keep the parameters with orbax."
        )


def is_artifact(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has a manifest of digests as `save_encoder` writes it (other tools use that file name too)."""
    path = Path(folder) / MANIFEST_NAME
    return path.is_file() and "manifest_schema" in read_json(path)
