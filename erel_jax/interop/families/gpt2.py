"""GPT-2 folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.decoder import POOLINGS
from erel_jax.encoders.gpt2 import Gpt2Config
from erel_jax.interop.config_keys import boolean, expect, integer, number
from erel_jax.interop.families.family import Family
from erel_jax.interop.weight_map import SAME, Source, WeightMap, norm, table


def gpt2_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> Gpt2Config:
    """`Gpt2Config` from the keys of a Hugging Face GPT-2 configuration."""
    expect(document, "scale_attn_weights", True)
    expect(document, "scale_attn_by_inverse_layer_idx", False)
    expect(document, "add_cross_attention", False)
    width = integer(document, "n_embd", 768)
    return Gpt2Config(
        vocabulary=integer(document, "vocab_size", 50257),
        width=width,
        layers=integer(document, "n_layer", 12),
        heads=integer(document, "n_head", 12),
        mlp_width=4 * width if document.get("n_inner") is None else integer(document, "n_inner", 3072),
        max_positions=integer(document, "n_positions", 1024),
        activation=document.get("activation_function", "gelu_new"),
        eps=number(document, "layer_norm_epsilon", 1e-5),
        causal=boolean(document, "is_causal", True),
        pooling=pooling,
    )


def gpt2_document(config: Gpt2Config) -> dict[str, Any]:
    """Keys of `GPT2Model`'s `config.json`."""
    return {
        "architectures": ["GPT2Model"],
        "model_type": "gpt2",
        "vocab_size": config.vocabulary,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": config.max_positions,
        "activation_function": config.activation,
        "layer_norm_epsilon": config.eps,
        "is_causal": config.causal,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        "erel_jax_pooling": config.pooling,
    }


def gpt2_map(config: Gpt2Config) -> WeightMap:
    """Names of `GPT2Model`, whose kernels lie as ours do; stored masks and the heads, tied or not, are ignored."""
    linears = {
        "attention/qkv": "attn.c_attn",
        "attention/output": "attn.c_proj",
        "mlp/up": "mlp.c_fc",
        "mlp/down": "mlp.c_proj",
    }
    sources = {
        **table("embeddings/token", "wte"),
        **table("embeddings/position", "wpe"),
        **{f"layers/{ours}/kernel": Source(f"h.{{i}}.{name}.weight", SAME) for ours, name in linears.items()},
        **{f"layers/{ours}/bias": Source(f"h.{{i}}.{name}.bias", SAME) for ours, name in linears.items()},
        **norm("layers/attention_norm", "h.{i}.ln_1"),
        **norm("layers/mlp_norm", "h.{i}.ln_2"),
        **norm("final_norm", "ln_f"),
    }
    ignored = (r"h\.\d+\.attn\.(masked_)?bias", r"lm_head\.weight", r"(score|classifier|multiple_choice_head)\..*")
    return WeightMap(sources, ("transformer.",), ignored)


GPT2 = Family(
    modality="text", config=Gpt2Config, read=gpt2_config, write=gpt2_document, weights=gpt2_map, poolings=POOLINGS
)
