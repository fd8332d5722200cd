"""DeiT folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.deit import DeitConfig
from erel_jax.interop.config_keys import expect, integer, number, square
from erel_jax.interop.families.family import Family, image_keys, image_sizes, shared_keys
from erel_jax.interop.families.vit import VIT_MODULES, vit_embeddings, vit_layers
from erel_jax.interop.weight_map import Source, WeightMap, leading, norm


def deit_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> DeitConfig:
    """`DeitConfig` from the keys of a Hugging Face DeiT configuration."""
    expect(document, "qkv_bias", True)
    return DeitConfig(
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


def deit_document(config: DeitConfig) -> dict[str, Any]:
    """Keys of `DeiTModel`'s `config.json`."""
    keys = {"architectures": ["DeiTModel"], "model_type": "deit", "qkv_bias": True}
    return shared_keys(config) | image_keys(config) | keys


def deit_map(config: DeitConfig) -> WeightMap:
    """Names of `DeiTModel`; pooler, classifiers, mask token and decoder are ignored."""
    sources = {
        **vit_embeddings(config.patch, config.channels),
        "embeddings/distillation/vector": Source("embeddings.distillation_token", leading(2)),
        **vit_layers(),
        **norm("final_norm", "layernorm"),
    }
    ignored = (r"embeddings\.mask_token", r"(pooler|cls_classifier|distillation_classifier|classifier|decoder)\..*")
    return WeightMap(sources, ("deit.",), ignored, modules=VIT_MODULES)


DEIT = Family(modality="image", config=DeitConfig, read=deit_config, write=deit_document, weights=deit_map)
