"""ModernBERT folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.modernbert import POOLINGS, ModernBertConfig
from erel_jax.interop.config_keys import expect, integer, number, section
from erel_jax.interop.families.decoder import FULL, WINDOWED, rotary_from, rotary_settings, windowed_layers
from erel_jax.interop.families.family import Family
from erel_jax.interop.weight_map import SAME, Source, WeightMap, linear, table

_BIASES = ("norm_bias", "attention_bias", "mlp_bias")


def modernbert_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> ModernBertConfig:
    """`ModernBertConfig` from the keys of a Hugging Face ModernBERT configuration, in its old or its new form."""
    for key in _BIASES:
        expect(document, key, False)
    layers, positions = integer(document, "num_hidden_layers", 22), integer(document, "max_position_embeddings", 8192)
    every = integer(document, "global_attn_every_n_layers", 3)
    windowed = windowed_layers(document, layers)
    stored, shared = section(document, "rope_parameters"), section(document, "rope_scaling")

    def rotary(kind: str, old: str, theta: float) -> Any:
        found = {**section(stored, kind), **shared}
        return rotary_from(found, found.get("rope_theta", document.get(old, theta)), positions)

    return ModernBertConfig(
        vocabulary=integer(document, "vocab_size", 50368),
        width=integer(document, "hidden_size", 768),
        layers=layers,
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 1152),
        max_positions=positions,
        activation=document.get("hidden_activation", "gelu"),
        eps=number(document, "norm_eps", 1e-5),
        rotary=rotary(FULL, "global_rope_theta", 160000.0),
        local_rotary=rotary(WINDOWED, "local_rope_theta", 10000.0),
        window=integer(document, "local_attention", 128) // 2,
        windowed=tuple(i % every > 0 for i in range(layers)) if windowed is None else windowed,
        pooling=pooling,
    )


def modernbert_document(config: ModernBertConfig) -> dict[str, Any]:
    """Keys of `ModernBertModel`'s `config.json`."""
    return {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "hidden_activation": config.activation,
        "norm_eps": config.eps,
        "local_attention": 2 * config.window,
        "layer_types": [WINDOWED if windowed else FULL for windowed in config.windowed],
        "rope_parameters": {FULL: rotary_settings(config.rotary), WINDOWED: rotary_settings(config.local_rotary)},
        **dict.fromkeys(_BIASES, False),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
        "dtype": "float32",
        "erel_jax_pooling": config.pooling,
    }


def modernbert_map(config: ModernBertConfig) -> WeightMap:
    """Names of `ModernBertModel`; heads of task models are ignored."""
    layer = "layers.{i}"
    sources = {
        **table("embeddings/token", "embeddings.tok_embeddings"),
        "embeddings/norm/scale": Source("embeddings.norm.weight", SAME),
        **linear("layers/attention/qkv", f"{layer}.attn.Wqkv", False),
        **linear("layers/attention/output", f"{layer}.attn.Wo", False),
        **linear("layers/mlp/gate_up", f"{layer}.mlp.Wi", False),
        **linear("layers/mlp/down", f"{layer}.mlp.Wo", False),
        "layers/mlp_norm/scale": Source(f"{layer}.mlp_norm.weight", SAME),
        "attention_norm/scale": Source(f"{layer}.attn_norm.weight", SAME, first=1),
        "final_norm/scale": Source("final_norm.weight", SAME),
    }
    return WeightMap(sources, ("model.",), (r"(head|decoder|classifier)\..*",))


MODERNBERT = Family(
    modality="text",
    config=ModernBertConfig,
    read=modernbert_config,
    write=modernbert_document,
    weights=modernbert_map,
    poolings=POOLINGS,
)
