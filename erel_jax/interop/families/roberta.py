"""RoBERTa and XLM-R folders."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from erel_jax.encoders.bert import POOLINGS
from erel_jax.encoders.roberta import RobertaConfig, XlmRobertaConfig
from erel_jax.errors import ConfigError
from erel_jax.interop.config_keys import expect, integer, number
from erel_jax.interop.families.bert import bert_map
from erel_jax.interop.families.family import Family, shared_keys
from erel_jax.interop.weight_map import WeightMap


def roberta_config(
    document: Mapping[str, Any], pooling: str, names: list[str], *, made: type[RobertaConfig] = RobertaConfig
) -> RobertaConfig:
    """The config from the keys of a Hugging Face RoBERTa configuration; `made` is the class to build."""
    expect(document, "position_embedding_type", "absolute")
    expect(document, "is_decoder", False)
    expect(document, "add_cross_attention", False)
    padding_id, rows = document.get("pad_token_id", 1), integer(document, "max_position_embeddings", 512)
    if isinstance(padding_id, bool) or not isinstance(padding_id, int) or not 0 <= padding_id < rows - 1:
        raise ConfigError(
            f"config.json has pad_token_id = {padding_id!r} and {rows} max_position_embeddings; positions start after "
            "the padding row, so the id must be an integer from 0 that leaves rows."
        )
    return made(
        vocabulary=integer(document, "vocab_size", 50265),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        max_positions=rows - padding_id - 1,
        padding_id=padding_id,
        types=integer(document, "type_vocab_size", 2),
        activation=document.get("hidden_act", "gelu"),
        eps=number(document, "layer_norm_eps", 1e-12),
        pooling=pooling,
    )


def roberta_document(config: RobertaConfig, *, kind: str = "roberta", original: str = "RobertaModel") -> dict[str, Any]:
    """Keys of the `config.json` of `RobertaModel` or its namesake for XLM-R."""
    return shared_keys(config) | {
        "architectures": [original],
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.position_rows,
        "type_vocab_size": config.types,
        "pad_token_id": config.padding_id,
        "erel_jax_pooling": config.pooling,
    }


def roberta_map(config: RobertaConfig) -> WeightMap:
    """Names of `RobertaModel`, BERT's with another prefix; the language-model head, tied or not, is ignored."""
    names = bert_map(config)
    return WeightMap(names.sources, ("roberta.",), (*names.ignored, r"lm_head\..*"))


ROBERTA = Family(
    modality="text",
    config=RobertaConfig,
    read=roberta_config,
    write=roberta_document,
    weights=roberta_map,
    poolings=POOLINGS,
)
XLM_ROBERTA = Family(
    modality="text",
    config=XlmRobertaConfig,
    read=partial(roberta_config, made=XlmRobertaConfig),
    write=partial(roberta_document, kind="xlm-roberta", original="XLMRobertaModel"),
    weights=roberta_map,
    poolings=POOLINGS,
)
