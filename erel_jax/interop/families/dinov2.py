"""DINOv2 folders, with and without registers."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.dinov2 import Dinov2Config, Dinov2RegistersConfig
from erel_jax.interop.config_keys import boolean, expect, integer, number, square
from erel_jax.interop.families.family import Family, image_keys, shared_keys
from erel_jax.interop.families.vit import ATTENTION_MODULES, vit_attention, vit_embeddings
from erel_jax.interop.weight_map import SAME, Source, WeightMap, leading, linear, norm

# In memory the two halves of `weights_in` are two modules.
_MODULES = (*ATTENTION_MODULES, (r"mlp\.weights_out$", "mlp.down_proj"), (r".*\.mlp\.weights_in$", ""))


def dinov2_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> Dinov2Config:
    """`Dinov2Config` from the keys of a Hugging Face DINOv2 configuration."""
    return Dinov2Config(**_fields(document, patch=14))


def registers_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> Dinov2RegistersConfig:
    """`Dinov2RegistersConfig` from the keys of a Hugging Face configuration of DINOv2 with registers."""
    return Dinov2RegistersConfig(**_fields(document, patch=16), registers=integer(document, "num_register_tokens", 4))


def _fields(document: Mapping[str, Any], patch: int) -> dict[str, Any]:
    expect(document, "qkv_bias", True)
    return {
        "image_size": square(document, "image_size", 224),
        "patch": square(document, "patch_size", patch),
        "channels": integer(document, "num_channels", 3),
        "width": integer(document, "hidden_size", 768),
        "layers": integer(document, "num_hidden_layers", 12),
        "heads": integer(document, "num_attention_heads", 12),
        "mlp_ratio": integer(document, "mlp_ratio", 4),
        "activation": document.get("hidden_act", "gelu"),
        "eps": number(document, "layer_norm_eps", 1e-6),
        "gated": boolean(document, "use_swiglu_ffn", False),
    }


def dinov2_document(config: Dinov2Config) -> dict[str, Any]:
    """Keys of `Dinov2Model`'s `config.json`."""
    return _keys(config) | {"architectures": ["Dinov2Model"], "model_type": "dinov2", "use_mask_token": False}


def registers_document(config: Dinov2RegistersConfig) -> dict[str, Any]:
    """Keys of `Dinov2WithRegistersModel`'s `config.json`; that model misses its mask token, which it does not use."""
    return _keys(config) | {
        "architectures": ["Dinov2WithRegistersModel"],
        "model_type": "dinov2_with_registers",
        "num_register_tokens": config.registers,
    }


def _keys(config: Dinov2Config) -> dict[str, Any]:
    keys = shared_keys(config) | image_keys(config) | {"mlp_ratio": config.mlp_ratio, "use_swiglu_ffn": config.gated}
    del keys["intermediate_size"]
    return keys | {"qkv_bias": True}


def dinov2_map(config: Dinov2Config) -> WeightMap:
    """Names of `Dinov2Model` and `Dinov2WithRegistersModel`; mask token and classifier are ignored."""
    layer = "encoder.layer.{i}"
    inward, outward = ("gate_up", "weights_in"), ("down", "weights_out")
    if not config.gated:
        inward, outward = ("up", "fc1"), ("down", "fc2")
    sources = {
        **vit_embeddings(config.patch, config.channels),
        **vit_attention(),
        **norm("layers/attention_norm", f"{layer}.norm1"),
        "layers/attention_scale/scale": Source(f"{layer}.layer_scale1.lambda1", SAME),
        **linear(f"layers/mlp/{inward[0]}", f"{layer}.mlp.{inward[1]}"),
        **linear(f"layers/mlp/{outward[0]}", f"{layer}.mlp.{outward[1]}"),
        **norm("layers/mlp_norm", f"{layer}.norm2"),
        "layers/mlp_scale/scale": Source(f"{layer}.layer_scale2.lambda1", SAME),
        **norm("final_norm", "layernorm"),
    }
    if config.registers:
        sources["embeddings/registers/table"] = Source("embeddings.register_tokens", leading(1))
    ignored = (r"embeddings\.mask_token", r"classifier\..*")
    return WeightMap(sources, ("dinov2.", "dinov2_with_registers."), ignored, modules=_MODULES)


DINOV2 = Family(modality="image", config=Dinov2Config, read=dinov2_config, write=dinov2_document, weights=dinov2_map)
DINOV2_REGISTERS = Family(
    modality="image",
    config=Dinov2RegistersConfig,
    read=registers_config,
    write=registers_document,
    weights=dinov2_map,
)
