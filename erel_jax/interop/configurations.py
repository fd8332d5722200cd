"""Encoder configs from `config.json`, and back.

Only keys that change the function are read. A key whose value this package does not implement (relative positions, a
decoder, code from the repository) is refused, because ignoring it would compute something else.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from erel_jax.encoders import BertConfig, ClipTextConfig, ClipVisionConfig, VitConfig
from erel_jax.errors import ConfigError, CorruptArtifactError, suggest

MODALITIES = {"bert": "text", "vit": "image", "clip_text_model": "text", "clip_vision_model": "image"}
_PROJECTED = "whole model: the projection must exist"
CLIP_TOWERS = {"text": ("clip_text_model", "text_config"), "image": ("clip_vision_model", "vision_config")}


def refuse_code(document: Mapping[str, Any], path: str | Path) -> None:
    """Refuses a JSON document that names Python code of its repository.

    Raises:
        CorruptArtifactError: the document has `auto_map`.
    """
    if document.get("auto_map"):
        raise CorruptArtifactError(
            f"{path} asks for code from its repository (auto_map: {sorted(document['auto_map'])}), which is never run. "
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
    kind = document.get("model_type")
    if kind == "clip":
        shared = {"projection_dim": document.get("projection_dim", 512), _PROJECTED: True}
        return {
            modality: (
                tower,
                {**(document.get(section) or {}), **(document.get(f"{section}_dict") or {}), **shared},
            )
            for modality, (tower, section) in CLIP_TOWERS.items()
        }
    if kind not in MODALITIES:
        raise ConfigError(f"{path}: unknown model_type {kind!r}. {suggest(str(kind), ['clip', *MODALITIES])}")
    return {MODALITIES[kind]: (kind, dict(document))}


def bert_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> BertConfig:
    """`BertConfig` from the keys of a Hugging Face BERT configuration."""
    _expect(document, "position_embedding_type", "absolute")
    _expect(document, "is_decoder", False)
    _expect(document, "add_cross_attention", False)
    return BertConfig(
        vocabulary=_integer(document, "vocab_size", 30522),
        width=_integer(document, "hidden_size", 768),
        layers=_integer(document, "num_hidden_layers", 12),
        heads=_integer(document, "num_attention_heads", 12),
        mlp_width=_integer(document, "intermediate_size", 3072),
        max_positions=_integer(document, "max_position_embeddings", 512),
        types=_integer(document, "type_vocab_size", 2),
        activation=document.get("hidden_act", "gelu"),
        eps=_number(document, "layer_norm_eps", 1e-12),
        pooling=pooling,
    )


def vit_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> VitConfig:
    """`VitConfig` from the keys of a Hugging Face ViT configuration."""
    _expect(document, "qkv_bias", True)
    return VitConfig(
        image_size=_square(document, "image_size", 224),
        patch=_square(document, "patch_size", 16),
        channels=_integer(document, "num_channels", 3),
        width=_integer(document, "hidden_size", 768),
        layers=_integer(document, "num_hidden_layers", 12),
        heads=_integer(document, "num_attention_heads", 12),
        mlp_width=_integer(document, "intermediate_size", 3072),
        activation=document.get("hidden_act", "gelu"),
        eps=_number(document, "layer_norm_eps", 1e-12),
    )


def clip_text_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> ClipTextConfig:
    """`ClipTextConfig` from a text section; the projection exists where its tensor does."""
    return ClipTextConfig(
        vocabulary=_integer(document, "vocab_size", 49408),
        width=_integer(document, "hidden_size", 512),
        layers=_integer(document, "num_hidden_layers", 12),
        heads=_integer(document, "num_attention_heads", 8),
        mlp_width=_integer(document, "intermediate_size", 2048),
        max_positions=_integer(document, "max_position_embeddings", 77),
        activation=document.get("hidden_act", "quick_gelu"),
        eps=_number(document, "layer_norm_eps", 1e-5),
        projection=_projection(document, "text_projection.weight", names),
        eos_id=_integer(document, "eos_token_id", 49407),
    )


def clip_vision_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> ClipVisionConfig:
    """`ClipVisionConfig` from an image section; the projection exists where its tensor does."""
    return ClipVisionConfig(
        image_size=_square(document, "image_size", 224),
        patch=_square(document, "patch_size", 32),
        channels=_integer(document, "num_channels", 3),
        width=_integer(document, "hidden_size", 768),
        layers=_integer(document, "num_hidden_layers", 12),
        heads=_integer(document, "num_attention_heads", 12),
        mlp_width=_integer(document, "intermediate_size", 3072),
        activation=document.get("hidden_act", "quick_gelu"),
        eps=_number(document, "layer_norm_eps", 1e-5),
        projection=_projection(document, "visual_projection.weight", names),
    )


CONFIG_READERS: dict[str, Callable[[Mapping[str, Any], str, list[str]], Any]] = {
    "bert": bert_config,
    "vit": vit_config,
    "clip_text_model": clip_text_config,
    "clip_vision_model": clip_vision_config,
}


def document_of(config: Any) -> dict[str, Any]:
    """The `config.json` of an encoder config: the inverse of the readers above.

    Raises:
        ConfigError: the config is of no known family.
    """
    shared = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "layer_norm_eps": config.eps,
        "dtype": "float32",
    }
    match config:
        case BertConfig():
            return shared | {
                "architectures": ["BertModel"],
                "model_type": "bert",
                "vocab_size": config.vocabulary,
                "max_position_embeddings": config.max_positions,
                "type_vocab_size": config.types,
                "pad_token_id": 0,
                "erel_jax_pooling": config.pooling,
            }
        case VitConfig():
            return shared | _image_keys(config) | {"architectures": ["ViTModel"], "model_type": "vit", "qkv_bias": True}
        case ClipTextConfig():
            return shared | {
                "architectures": ["CLIPTextModel" + ("WithProjection" if config.projection else "")],
                "model_type": "clip_text_model",
                "vocab_size": config.vocabulary,
                "max_position_embeddings": config.max_positions,
                "projection_dim": config.projection or config.width,
                "eos_token_id": config.eos_id,
                "bos_token_id": min(config.eos_id - 1, config.vocabulary - 1),
                "pad_token_id": config.eos_id,
            }
        case ClipVisionConfig():
            return (
                shared
                | _image_keys(config)
                | {
                    "architectures": ["CLIPVisionModel" + ("WithProjection" if config.projection else "")],
                    "model_type": "clip_vision_model",
                    "projection_dim": config.projection or config.width,
                }
            )
    raise ConfigError(f"got a {type(config).__name__}, expected the config of a registered encoder family.")


def _image_keys(config: VitConfig | ClipVisionConfig) -> dict[str, Any]:
    return {"image_size": config.image_size, "patch_size": config.patch, "num_channels": config.channels}


def _expect(document: Mapping[str, Any], key: str, value: Any) -> None:
    if document.get(key, value) != value:
        raise ConfigError(f"config.json has {key} = {document[key]!r}; only {value!r} is implemented.")


def _integer(document: Mapping[str, Any], key: str, default: int) -> int:
    value = document.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"config.json has {key} = {value!r}, expected a positive integer.")
    return value


def _number(document: Mapping[str, Any], key: str, default: float) -> float:
    value = document.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"config.json has {key} = {value!r}, expected a number between 0 and 1.")
    return float(value)


def _square(document: Mapping[str, Any], key: str, default: int) -> int:
    value = document.get(key, default)
    if isinstance(value, list | tuple):
        if len(set(value)) != 1:
            raise ConfigError(f"config.json has {key} = {value!r}; only squares are implemented.")
        value = value[0]
    return _integer({key: value}, key, default)


def _projection(document: Mapping[str, Any], tensor: str, names: list[str]) -> int | None:
    exists = document.get(_PROJECTED, False) or tensor in names
    return _integer(document, "projection_dim", 512) if exists else None
