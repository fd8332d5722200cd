"""LLaMA folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.decoder import POOLINGS
from erel_jax.encoders.llama import LlamaConfig
from erel_jax.interop.config_keys import expect
from erel_jax.interop.families.decoder import decoder_document, decoder_fields, decoder_map
from erel_jax.interop.families.family import Family


def llama_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> LlamaConfig:
    """`LlamaConfig` from the keys of a Hugging Face LLaMA configuration."""
    expect(document, "attention_bias", False)
    expect(document, "mlp_bias", False)
    return LlamaConfig(**decoder_fields(document, pooling))


def llama_document(config: LlamaConfig) -> dict[str, Any]:
    """Keys of `LlamaModel`'s `config.json`."""
    return decoder_document(config, "llama", "LlamaModel") | {"attention_bias": False, "mlp_bias": False}


LLAMA = Family(
    modality="text",
    config=LlamaConfig,
    read=llama_config,
    write=llama_document,
    weights=decoder_map,
    poolings=POOLINGS,
)
