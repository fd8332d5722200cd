"""Mistral folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.decoder import POOLINGS
from erel_jax.encoders.mistral import MistralConfig
from erel_jax.interop.config_keys import expect, integer
from erel_jax.interop.families.decoder import decoder_document, decoder_fields, decoder_map
from erel_jax.interop.families.family import Family


def mistral_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> MistralConfig:
    """`MistralConfig` from the keys of a Hugging Face Mistral configuration; a window of null is none."""
    expect(document, "layer_types", None)
    unlimited = document.get("sliding_window", 4096) is None
    window = None if unlimited else integer(document, "sliding_window", 4096)
    return MistralConfig(**decoder_fields(document, pooling), window=window)


def mistral_document(config: MistralConfig) -> dict[str, Any]:
    """Keys of `MistralModel`'s `config.json`."""
    return decoder_document(config, "mistral", "MistralModel") | {"sliding_window": config.window}


MISTRAL = Family(
    modality="text",
    config=MistralConfig,
    read=mistral_config,
    write=mistral_document,
    weights=decoder_map,
    poolings=POOLINGS,
)
