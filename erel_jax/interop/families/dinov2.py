"""DINOv2 folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.dinov2 import Dinov2Config
from erel_jax.interop.config_keys import expect, integer, number, square
from erel_jax.interop.families.family import Family, image_keys, shared_keys
from erel_jax.interop.families.vit import vit_attention, vit_embeddings
from erel_jax.interop.weight_map import SAME, Source, WeightMap, linear, norm


def dinov2_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> Dinov2Config:
    """`Dinov2Config` from the keys of a Hugging Face DINOv2 configuration."""
    expect(document, "qkv_bias", True)
    expect(document, "use_swiglu_ffn", False)
    return Dinov2Config(
        image_size=square(document, "image_size", 224),
        patch=square(document, "patch_size", 14),
        channels=integer(document, "num_channels", 3),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_ratio=integer(document, "mlp_ratio", 4),
        activation=document.get("hidden_act", "gelu"),
        eps=number(document, "layer_norm_eps", 1e-6),
    )


def dinov2_document(config: Dinov2Config) -> dict[str, Any]:
    """Keys of `Dinov2Model`'s `config.json`."""
    keys = shared_keys(config) | image_keys(config) | {"mlp_ratio": config.mlp_ratio, "use_mask_token": False}
    del keys["intermediate_size"]
    return keys | {"architectures": ["Dinov2Model"], "model_type": "dinov2", "qkv_bias": True}


def dinov2_map(config: Dinov2Config) -> WeightMap:
    """Names of `Dinov2Model`; mask token and classifier are ignored."""
    layer = "encoder.layer.{i}"
    sources = {
        **vit_embeddings(config.patch, config.channels),
        **vit_attention(),
        **norm("layers/attention_norm", f"{layer}.norm1"),
        "layers/attention_scale/scale": Source(f"{layer}.layer_scale1.lambda1", SAME),
        **linear("layers/mlp/up", f"{layer}.mlp.fc1"),
        **linear("layers/mlp/down", f"{layer}.mlp.fc2"),
        **norm("layers/mlp_norm", f"{layer}.norm2"),
        "layers/mlp_scale/scale": Source(f"{layer}.layer_scale2.lambda1", SAME),
        **norm("final_norm", "layernorm"),
    }
    return WeightMap(sources, ("dinov2.",), (r"embeddings\.mask_token", r"classifier\..*"))


DINOV2 = Family(modality="image", config=Dinov2Config, read=dinov2_config, write=dinov2_document, weights=dinov2_map)
