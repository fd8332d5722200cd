"""ViT folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.vit import VitConfig
from erel_jax.interop.config_keys import expect, integer, number, square
from erel_jax.interop.families.family import Family, image_keys, shared_keys
from erel_jax.interop.weight_map import SAME, Source, WeightMap, leading, linear, norm, patches


def vit_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> VitConfig:
    """`VitConfig` from the keys of a Hugging Face ViT configuration."""
    expect(document, "qkv_bias", True)
    return VitConfig(
        image_size=square(document, "image_size", 224),
        patch=square(document, "patch_size", 16),
        channels=integer(document, "num_channels", 3),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        activation=document.get("hidden_act", "gelu"),
        eps=number(document, "layer_norm_eps", 1e-12),
    )


def vit_document(config: VitConfig) -> dict[str, Any]:
    """Keys of `ViTModel`'s `config.json`."""
    return (
        shared_keys(config)
        | image_keys(config)
        | {"architectures": ["ViTModel"], "model_type": "vit", "qkv_bias": True}
    )


def vit_map(config: VitConfig) -> WeightMap:
    """Names of `ViTModel`; pooler, classifier, mask token and decoder are ignored."""
    layer = "encoder.layer.{i}"
    sources = {
        "embeddings/cls/vector": Source("embeddings.cls_token", leading(2)),
        "embeddings/position/table": Source("embeddings.position_embeddings", leading(1)),
        "embeddings/patch/kernel": Source(
            "embeddings.patch_embeddings.projection.weight", patches(config.patch, config.channels)
        ),
        "embeddings/patch/bias": Source("embeddings.patch_embeddings.projection.bias", SAME),
        **linear("layers/attention/query", f"{layer}.attention.attention.query"),
        **linear("layers/attention/key", f"{layer}.attention.attention.key"),
        **linear("layers/attention/value", f"{layer}.attention.attention.value"),
        **linear("layers/attention/output", f"{layer}.attention.output.dense"),
        **norm("layers/attention_norm", f"{layer}.layernorm_before"),
        **linear("layers/mlp/up", f"{layer}.intermediate.dense"),
        **linear("layers/mlp/down", f"{layer}.output.dense"),
        **norm("layers/mlp_norm", f"{layer}.layernorm_after"),
        **norm("final_norm", "layernorm"),
    }
    ignored = (r"embeddings\.mask_token", r"(pooler|classifier|decoder)\..*")
    return WeightMap(sources, ("vit.",), ignored)


VIT = Family(modality="image", config=VitConfig, read=vit_config, write=vit_document, weights=vit_map)
