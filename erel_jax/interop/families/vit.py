"""ViT folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.vit import VitConfig
from erel_jax.interop.config_keys import expect, integer, number, square
from erel_jax.interop.families.family import Family, image_keys, image_sizes, shared_keys
from erel_jax.interop.weight_map import SAME, Source, WeightMap, leading, linear, norm, patches

ATTENTION_MODULES = (
    (r"attention\.attention\.(q|k|v)(uery|ey|alue)$", r"attention.\1_proj"),
    (r"attention\.output\.dense$", "attention.o_proj"),
)
VIT_MODULES = (
    *ATTENTION_MODULES,
    (r"encoder\.layer\.", "layers."),
    (r"intermediate\.dense$", "mlp.fc1"),
    (r"output\.dense$", "mlp.fc2"),
)
"""Names in memory, which ViT and its relatives share; see `WeightMap.modules`."""


def vit_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> VitConfig:
    """`VitConfig` from the keys of a Hugging Face ViT configuration."""
    expect(document, "qkv_bias", True)
    return VitConfig(
        **image_sizes(document),
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
    keys = {"architectures": ["ViTModel"], "model_type": "vit", "qkv_bias": True}
    return shared_keys(config) | image_keys(config) | keys


def vit_embeddings(patch: int, channels: int) -> dict[str, Source]:
    """Names of class token, positions and patch projection, as ViT and its relatives have them."""
    return {
        "embeddings/cls/vector": Source("embeddings.cls_token", leading(2)),
        "embeddings/position/table": Source("embeddings.position_embeddings", leading(1)),
        "embeddings/patch/kernel": Source("embeddings.patch_embeddings.projection.weight", patches(patch, channels)),
        "embeddings/patch/bias": Source("embeddings.patch_embeddings.projection.bias", SAME),
    }


def vit_attention(biases: bool = True) -> dict[str, Source]:
    """Names of a layer's attention, with or without biases of query, key and value."""
    inner = "encoder.layer.{i}.attention.attention"
    return {
        **linear("layers/attention/query", f"{inner}.query", biases),
        **linear("layers/attention/key", f"{inner}.key", biases),
        **linear("layers/attention/value", f"{inner}.value", biases),
        **linear("layers/attention/output", "encoder.layer.{i}.attention.output.dense"),
    }


def vit_layers(biases: bool = True) -> dict[str, Source]:
    """Names of a layer, as ViT and its relatives have them; `biases` as in `vit_attention`."""
    layer = "encoder.layer.{i}"
    return {
        **vit_attention(biases),
        **norm("layers/attention_norm", f"{layer}.layernorm_before"),
        **linear("layers/mlp/up", f"{layer}.intermediate.dense"),
        **linear("layers/mlp/down", f"{layer}.output.dense"),
        **norm("layers/mlp_norm", f"{layer}.layernorm_after"),
    }


def vit_map(config: VitConfig) -> WeightMap:
    """Names of `ViTModel`; pooler, classifier, mask token and decoder are ignored."""
    sources = {**vit_embeddings(config.patch, config.channels), **vit_layers(), **norm("final_norm", "layernorm")}
    ignored = (r"embeddings\.mask_token", r"(pooler|classifier|decoder)\..*")
    return WeightMap(sources, ("vit.",), ignored, modules=VIT_MODULES)


VIT = Family(modality="image", config=VitConfig, read=vit_config, write=vit_document, weights=vit_map)
