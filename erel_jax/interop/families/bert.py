"""BERT folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.bert import POOLINGS, BertConfig
from erel_jax.encoders.roberta import RobertaConfig
from erel_jax.interop.config_keys import expect, integer, number
from erel_jax.interop.families.family import Family, shared_keys
from erel_jax.interop.weight_map import WeightMap, linear, norm, table


def bert_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> BertConfig:
    """`BertConfig` from the keys of a Hugging Face BERT configuration."""
    expect(document, "position_embedding_type", "absolute")
    expect(document, "is_decoder", False)
    expect(document, "add_cross_attention", False)
    return BertConfig(
        vocabulary=integer(document, "vocab_size", 30522),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        max_positions=integer(document, "max_position_embeddings", 512),
        types=integer(document, "type_vocab_size", 2),
        activation=document.get("hidden_act", "gelu"),
        eps=number(document, "layer_norm_eps", 1e-12),
        pooling=pooling,
    )


def bert_document(config: BertConfig) -> dict[str, Any]:
    """Keys of `BertModel`'s `config.json`."""
    return shared_keys(config) | {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.types,
        "pad_token_id": 0,
        "erel_jax_pooling": config.pooling,
    }


def bert_map(config: BertConfig | RobertaConfig) -> WeightMap:
    """Names of `BertModel`; heads of task models and an unused pooler are ignored."""
    layer = "encoder.layer.{i}"
    sources = {
        **table("embeddings/token", "embeddings.word_embeddings"),
        **table("embeddings/position", "embeddings.position_embeddings"),
        **table("embeddings/type", "embeddings.token_type_embeddings"),
        **norm("embeddings/norm", "embeddings.LayerNorm"),
        **linear("layers/attention/query", f"{layer}.attention.self.query"),
        **linear("layers/attention/key", f"{layer}.attention.self.key"),
        **linear("layers/attention/value", f"{layer}.attention.self.value"),
        **linear("layers/attention/output", f"{layer}.attention.output.dense"),
        **norm("layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        **linear("layers/mlp/up", f"{layer}.intermediate.dense"),
        **linear("layers/mlp/down", f"{layer}.output.dense"),
        **norm("layers/mlp_norm", f"{layer}.output.LayerNorm"),
    }
    ignored = [r"embeddings\.(position_ids|token_type_ids)", r"(cls|classifier|qa_outputs|dropout)\..*"]
    if config.pooling == "pooler":
        sources |= linear("pooler", "pooler.dense")
    else:
        ignored.append(r"pooler\..*")
    return WeightMap(sources, ("bert.",), tuple(ignored))


BERT = Family(
    modality="text", config=BertConfig, read=bert_config, write=bert_document, weights=bert_map, poolings=POOLINGS
)
