"""DistilBERT folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.distilbert import POOLINGS, DistilBertConfig
from erel_jax.interop.config_keys import integer
from erel_jax.interop.families.family import Family
from erel_jax.interop.weight_map import WeightMap, linear, norm, table


def distilbert_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> DistilBertConfig:
    """`DistilBertConfig` from the keys of a Hugging Face DistilBERT configuration."""
    return DistilBertConfig(
        vocabulary=integer(document, "vocab_size", 30522),
        width=integer(document, "dim", 768),
        layers=integer(document, "n_layers", 6),
        heads=integer(document, "n_heads", 12),
        mlp_width=integer(document, "hidden_dim", 3072),
        max_positions=integer(document, "max_position_embeddings", 512),
        activation=document.get("activation", "gelu"),
        pooling=pooling,
    )


def distilbert_document(config: DistilBertConfig) -> dict[str, Any]:
    """Keys of `DistilBertModel`'s `config.json`."""
    return {
        "architectures": ["DistilBertModel"],
        "model_type": "distilbert",
        "vocab_size": config.vocabulary,
        "dim": config.width,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "hidden_dim": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "activation": config.activation,
        "pad_token_id": 0,
        "dtype": "float32",
        "erel_jax_pooling": config.pooling,
    }


def distilbert_map(config: DistilBertConfig) -> WeightMap:
    """Names of `DistilBertModel`; heads of task models and the tied language-model head are ignored."""
    layer = "transformer.layer.{i}"
    sources = {
        **table("embeddings/token", "embeddings.word_embeddings"),
        **table("embeddings/position", "embeddings.position_embeddings"),
        **norm("embeddings/norm", "embeddings.LayerNorm"),
        **linear("layers/attention/query", f"{layer}.attention.q_lin"),
        **linear("layers/attention/key", f"{layer}.attention.k_lin"),
        **linear("layers/attention/value", f"{layer}.attention.v_lin"),
        **linear("layers/attention/output", f"{layer}.attention.out_lin"),
        **norm("layers/attention_norm", f"{layer}.sa_layer_norm"),
        **linear("layers/mlp/up", f"{layer}.ffn.lin1"),
        **linear("layers/mlp/down", f"{layer}.ffn.lin2"),
        **norm("layers/mlp_norm", f"{layer}.output_layer_norm"),
    }
    ignored = (
        r"embeddings\.position_ids",
        r"vocab_(transform|layer_norm|projector)\..*",
        r"(pre_classifier|classifier|qa_outputs)\..*",
    )
    return WeightMap(sources, ("distilbert.",), ignored)


DISTILBERT = Family(
    modality="text",
    config=DistilBertConfig,
    read=distilbert_config,
    write=distilbert_document,
    weights=distilbert_map,
    poolings=POOLINGS,
)
