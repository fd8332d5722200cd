"""CLIP folders: each tower alone, or a whole model with both."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.clip import ClipTextConfig, ClipVisionConfig
from erel_jax.interop.config_keys import integer, number, section, square
from erel_jax.interop.families.family import Family, image_keys, image_sizes, shared_keys
from erel_jax.interop.weight_map import SAME, Source, WeightMap, linear, norm, patches, table

_PROJECTED = "whole model: the projection must exist"
_TOWERS = {"text": ("clip_text_model", "text_config"), "image": ("clip_vision_model", "vision_config")}


def clip_towers(document: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Modality to (model type, document) of both towers of a `CLIPModel`."""
    shared = {"projection_dim": document.get("projection_dim", 512), _PROJECTED: True}
    return {
        modality: (tower, {**section(document, key), **section(document, f"{key}_dict"), **shared})
        for modality, (tower, key) in _TOWERS.items()
    }


def clip_text_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> ClipTextConfig:
    """`ClipTextConfig` from a text section; the projection exists where its tensor does."""
    return ClipTextConfig(
        vocabulary=integer(document, "vocab_size", 49408),
        width=integer(document, "hidden_size", 512),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 8),
        mlp_width=integer(document, "intermediate_size", 2048),
        max_positions=integer(document, "max_position_embeddings", 77),
        activation=document.get("hidden_act", "quick_gelu"),
        eps=number(document, "layer_norm_eps", 1e-5),
        projection=_projection(document, "text_projection.weight", names),
        eos_id=integer(document, "eos_token_id", 49407),
    )


def clip_vision_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> ClipVisionConfig:
    """`ClipVisionConfig` from an image section; the projection exists where its tensor does."""
    return ClipVisionConfig(
        **image_sizes(document),
        patch=square(document, "patch_size", 32),
        channels=integer(document, "num_channels", 3),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        activation=document.get("hidden_act", "quick_gelu"),
        eps=number(document, "layer_norm_eps", 1e-5),
        projection=_projection(document, "visual_projection.weight", names),
    )


def clip_text_document(config: ClipTextConfig) -> dict[str, Any]:
    """Keys of `CLIPTextModel`'s `config.json`, with or without projection."""
    return shared_keys(config) | {
        "architectures": ["CLIPTextModel" + ("WithProjection" if config.projection else "")],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.max_positions,
        "projection_dim": config.projection or config.width,
        "eos_token_id": config.eos_id,
        "bos_token_id": min(config.eos_id - 1, config.vocabulary - 1),
        "pad_token_id": config.eos_id,
    }


def clip_vision_document(config: ClipVisionConfig) -> dict[str, Any]:
    """Keys of `CLIPVisionModel`'s `config.json`, with or without projection."""
    return (
        shared_keys(config)
        | image_keys(config)
        | {
            "architectures": ["CLIPVisionModel" + ("WithProjection" if config.projection else "")],
            "model_type": "clip_vision_model",
            "projection_dim": config.projection or config.width,
        }
    )


def _clip_layers() -> dict[str, Source]:
    layer = "encoder.layers.{i}"
    return {
        **linear("layers/attention/query", f"{layer}.self_attn.q_proj"),
        **linear("layers/attention/key", f"{layer}.self_attn.k_proj"),
        **linear("layers/attention/value", f"{layer}.self_attn.v_proj"),
        **linear("layers/attention/output", f"{layer}.self_attn.out_proj"),
        **norm("layers/attention_norm", f"{layer}.layer_norm1"),
        **linear("layers/mlp/up", f"{layer}.mlp.fc1"),
        **linear("layers/mlp/down", f"{layer}.mlp.fc2"),
        **norm("layers/mlp_norm", f"{layer}.layer_norm2"),
    }


def clip_text_map(config: ClipTextConfig) -> WeightMap:
    """Names of `CLIPTextModelWithProjection` or of the text half of `CLIPModel`; the other half is ignored."""
    sources = {
        **table("embeddings/token", "embeddings.token_embedding"),
        **table("embeddings/position", "embeddings.position_embedding"),
        **_clip_layers(),
        **norm("final_norm", "final_layer_norm"),
    }
    bare = ()
    if config.projection is not None:
        sources |= linear("projection", "text_projection", bias=False)
        bare = ("text_projection.weight",)
    ignored = (r"embeddings\.position_ids", r"vision_model\..*", r"visual_projection\.weight", r"logit_scale")
    return WeightMap(sources, ("text_model.",), ignored, "text_model." if bare else "", bare)


def clip_vision_map(config: ClipVisionConfig) -> WeightMap:
    """Names of `CLIPVisionModelWithProjection` or of the image half of `CLIPModel`; the other half is ignored."""
    sources = {
        "embeddings/cls/vector": Source("embeddings.class_embedding", SAME),
        "embeddings/patch/kernel": Source("embeddings.patch_embedding.weight", patches(config.patch, config.channels)),
        **table("embeddings/position", "embeddings.position_embedding"),
        **norm("embeddings/norm", "pre_layrnorm"),
        **_clip_layers(),
        **norm("final_norm", "post_layernorm"),
    }
    bare = ()
    if config.projection is not None:
        sources |= linear("projection", "visual_projection", bias=False)
        bare = ("visual_projection.weight",)
    ignored = (r"embeddings\.position_ids", r"text_model\..*", r"text_projection\.weight", r"logit_scale")
    return WeightMap(sources, ("vision_model.",), ignored, "vision_model." if bare else "", bare)


def _projection(document: Mapping[str, Any], tensor: str, names: list[str]) -> int | None:
    exists = document.get(_PROJECTED, False) or tensor in names
    return integer(document, "projection_dim", 512) if exists else None


CLIP_TEXT = Family(
    modality="text",
    config=ClipTextConfig,
    read=clip_text_config,
    write=clip_text_document,
    weights=clip_text_map,
)
CLIP_VISION = Family(
    modality="image",
    config=ClipVisionConfig,
    read=clip_vision_config,
    write=clip_vision_document,
    weights=clip_vision_map,
)
