"""AST folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.ast import AstConfig
from erel_jax.interop.config_keys import expect, integer, number, square
from erel_jax.interop.families.family import Family, shared_keys
from erel_jax.interop.families.vit import VIT_MODULES, vit_embeddings, vit_layers
from erel_jax.interop.weight_map import Source, WeightMap, leading, norm


def ast_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> AstConfig:
    """`AstConfig` from the keys of a Hugging Face AST configuration."""
    expect(document, "qkv_bias", True)
    return AstConfig(
        frames=integer(document, "max_length", 1024),
        bins=integer(document, "num_mel_bins", 128),
        patch=square(document, "patch_size", 16),
        bin_stride=integer(document, "frequency_stride", 10),
        frame_stride=integer(document, "time_stride", 10),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        activation=document.get("hidden_act", "gelu"),
        eps=number(document, "layer_norm_eps", 1e-12),
    )


def ast_document(config: AstConfig) -> dict[str, Any]:
    """Keys of `ASTModel`'s `config.json`."""
    return shared_keys(config) | {
        "architectures": ["ASTModel"],
        "model_type": "audio-spectrogram-transformer",
        "max_length": config.frames,
        "num_mel_bins": config.bins,
        "patch_size": config.patch,
        "frequency_stride": config.bin_stride,
        "time_stride": config.frame_stride,
        "qkv_bias": True,
    }


def ast_map(config: AstConfig) -> WeightMap:
    """Names of `ASTModel`; the classifier is ignored."""
    sources = {
        **vit_embeddings(config.patch, 1),
        "embeddings/distillation/vector": Source("embeddings.distillation_token", leading(2)),
        **vit_layers(),
        **norm("final_norm", "layernorm"),
    }
    return WeightMap(sources, ("audio_spectrogram_transformer.",), (r"classifier\..*",), modules=VIT_MODULES)


AST = Family(modality="audio", config=AstConfig, read=ast_config, write=ast_document, weights=ast_map)
