"""BEiT folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.beit import BeitConfig
from erel_jax.errors import ConfigError
from erel_jax.interop.config_keys import boolean, expect, integer, number, square
from erel_jax.interop.families.family import Family, image_keys, image_sizes, shared_keys
from erel_jax.interop.families.vit import VIT_MODULES, vit_layers
from erel_jax.interop.weight_map import SAME, Source, WeightMap, leading, norm, patches

_KEYS = {"layers": "use_relative_position_bias", "shared": "use_shared_relative_position_bias"}


def beit_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> BeitConfig:
    """`BeitConfig` from the keys of a Hugging Face BEiT configuration."""
    expect(document, "use_absolute_position_embeddings", False)
    chosen = [relative for relative, key in _KEYS.items() if boolean(document, key, False)]
    if len(chosen) != 1:
        raise ConfigError(
            f"config.json asks for {len(chosen)} of {sorted(_KEYS.values())}; exactly one is implemented."
        )
    scale = document.get("layer_scale_init_value", 0.1)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0:
        raise ConfigError(
            f"config.json has layer_scale_init_value = {scale!r}, expected a positive number: models without layer "
            "scale are not implemented."
        )
    return BeitConfig(
        **image_sizes(document),
        patch=square(document, "patch_size", 16),
        channels=integer(document, "num_channels", 3),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        activation=document.get("hidden_act", "gelu"),
        eps=number(document, "layer_norm_eps", 1e-12),
        relative=chosen[0],
        read="mean" if boolean(document, "use_mean_pooling", True) else "cls",
    )


def beit_document(config: BeitConfig) -> dict[str, Any]:
    """Keys of `BeitModel`'s `config.json`."""
    keys = {key: config.relative == relative for relative, key in _KEYS.items()}
    return (
        shared_keys(config)
        | image_keys(config)
        | keys
        | {
            "architectures": ["BeitModel"],
            "model_type": "beit",
            "use_absolute_position_embeddings": False,
            "use_mask_token": False,
            "use_mean_pooling": config.read == "mean",
        }
    )


def beit_map(config: BeitConfig) -> WeightMap:
    """Names of `BeitModel`; mask token, index tables and heads of task models are ignored."""
    layer = "encoder.layer.{i}"
    attention = f"{layer}.attention.attention"
    table = "relative_position_bias.relative_position_bias_table"
    sources = {
        "embeddings/cls/vector": Source("embeddings.cls_token", leading(2)),
        "embeddings/patch/kernel": Source(
            "embeddings.patch_embeddings.projection.weight", patches(config.patch, config.channels)
        ),
        "embeddings/patch/bias": Source("embeddings.patch_embeddings.projection.bias", SAME),
        **vit_layers(biases=False),
        "layers/attention/query/bias": Source(f"{attention}.query.bias", SAME),
        "layers/attention/value/bias": Source(f"{attention}.value.bias", SAME),
        "layers/attention_scale/scale": Source(f"{layer}.lambda_1", SAME),
        "layers/mlp_scale/scale": Source(f"{layer}.lambda_2", SAME),
        **norm("final_norm", "pooler.layernorm" if config.read == "mean" else "layernorm"),
    }
    if config.relative == "layers":
        sources["layers/relative/table"] = Source(f"{attention}.{table}", SAME)
    else:
        sources["relative/table"] = Source(f"encoder.{table}", SAME)
    ignored = (r"embeddings\.mask_token", r".*relative_position_index", r"(classifier|lm_head|layernorm)\..*")
    return WeightMap(sources, ("beit.",), ignored, modules=VIT_MODULES)


BEIT = Family(modality="image", config=BeitConfig, read=beit_config, write=beit_document, weights=beit_map)
