"""SigLIP folders, and those of SigLIP 2 at fixed resolution: each tower alone, or a whole model with both."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.siglip import SiglipTextConfig, SiglipVisionConfig
from erel_jax.errors import ConfigError
from erel_jax.interop.config_keys import expect, integer, number, section, square
from erel_jax.interop.families.family import Family, image_keys, image_sizes, shared_keys
from erel_jax.interop.weight_map import LINEAR, SAME, Source, WeightMap, leading, linear, norm, patches, table

GEMMA_VOCABULARY = 256000

_TOWERS = {"text": ("siglip_text_model", "text_config"), "image": ("siglip_vision_model", "vision_config")}


def siglip_towers(document: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Modality to (model type, document) of both towers of a `SiglipModel`."""
    return {modality: (tower, dict(section(document, key))) for modality, (tower, key) in _TOWERS.items()}


def siglip_text_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> SiglipTextConfig:
    """`SiglipTextConfig` from a text section.

    SigLIP 2 pads with id 0 of Gemma's vocabulary, but its configurations leave that out, and the default of their class
    is the 1 of SigLIP.
    """
    width = integer(document, "hidden_size", 768)
    vocabulary = integer(document, "vocab_size", 32000)
    pad = document.get("pad_token_id")
    if pad is None:
        pad = 0 if vocabulary >= GEMMA_VOCABULARY else 1
    if isinstance(pad, bool) or not isinstance(pad, int):
        raise ConfigError(f"config.json has pad_token_id = {pad!r}, expected a token id.")
    return SiglipTextConfig(
        vocabulary=vocabulary,
        width=width,
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        max_positions=integer(document, "max_position_embeddings", 64),
        activation=document.get("hidden_act", "gelu_pytorch_tanh"),
        eps=number(document, "layer_norm_eps", 1e-6),
        projection=width if document.get("projection_size") is None else integer(document, "projection_size", width),
        pad_id=pad,
    )


def siglip_vision_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> SiglipVisionConfig:
    """`SiglipVisionConfig` from an image section."""
    expect(document, "vision_use_head", True)
    return SiglipVisionConfig(
        **image_sizes(document),
        patch=square(document, "patch_size", 16),
        channels=integer(document, "num_channels", 3),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        activation=document.get("hidden_act", "gelu_pytorch_tanh"),
        eps=number(document, "layer_norm_eps", 1e-6),
    )


def siglip_text_document(config: SiglipTextConfig) -> dict[str, Any]:
    """Keys of `SiglipTextModel`'s `config.json`."""
    return shared_keys(config) | {
        "architectures": ["SiglipTextModel"],
        "model_type": "siglip_text_model",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.max_positions,
        "projection_size": config.projection,
        "pad_token_id": config.pad_id,
    }


def siglip_vision_document(config: SiglipVisionConfig) -> dict[str, Any]:
    """Keys of `SiglipVisionModel`'s `config.json`."""
    return (
        shared_keys(config)
        | image_keys(config)
        | {"architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model", "vision_use_head": True}
    )


def _siglip_layers() -> dict[str, Source]:
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


def siglip_text_map(config: SiglipTextConfig) -> WeightMap:
    """Names of `SiglipTextModel` or of the text half of `SiglipModel`; the other half is ignored."""
    sources = {
        **table("embeddings/token", "embeddings.token_embedding"),
        **table("embeddings/position", "embeddings.position_embedding"),
        **_siglip_layers(),
        **norm("final_norm", "final_layer_norm"),
        **linear("projection", "head"),
    }
    ignored = (r"embeddings\.position_ids", r"vision_model\..*", r"logit_(scale|bias)")
    return WeightMap(sources, ("text_model.",), ignored, "text_model.", modules=((r"^text_model\.", ""),))


def siglip_vision_map(config: SiglipVisionConfig) -> WeightMap:
    """Names of `SiglipVisionModel` or of the image half of `SiglipModel`; the other half is ignored."""
    sources = {
        "embeddings/patch/kernel": Source("embeddings.patch_embedding.weight", patches(config.patch, config.channels)),
        "embeddings/patch/bias": Source("embeddings.patch_embedding.bias", SAME),
        **table("embeddings/position", "embeddings.position_embedding"),
        **_siglip_layers(),
        **norm("final_norm", "post_layernorm"),
        "head/probe/vector": Source("head.probe", leading(2)),
        "head/attention/input/kernel": Source("head.attention.in_proj_weight", LINEAR),
        "head/attention/input/bias": Source("head.attention.in_proj_bias", SAME),
        **linear("head/attention/output", "head.attention.out_proj"),
        **norm("head/norm", "head.layernorm"),
        **linear("head/mlp/up", "head.mlp.fc1"),
        **linear("head/mlp/down", "head.mlp.fc2"),
    }
    ignored = (r"embeddings\.position_ids", r"text_model\..*", r"logit_(scale|bias)", r"classifier\..*")
    return WeightMap(sources, ("vision_model.",), ignored, "vision_model.", modules=((r"^vision_model\.", ""),))


SIGLIP_TEXT = Family(
    modality="text",
    config=SiglipTextConfig,
    read=siglip_text_config,
    write=siglip_text_document,
    weights=siglip_text_map,
)
SIGLIP_VISION = Family(
    modality="image",
    config=SiglipVisionConfig,
    read=siglip_vision_config,
    write=siglip_vision_document,
    weights=siglip_vision_map,
)
