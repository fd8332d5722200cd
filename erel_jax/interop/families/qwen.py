"""Qwen 2 and Qwen 3 folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.decoder import POOLINGS, DecoderConfig
from erel_jax.encoders.qwen import Qwen2Config, Qwen3Config
from erel_jax.errors import ConfigError
from erel_jax.interop.config_keys import expect, integer
from erel_jax.interop.families.decoder import (
    decoder_document,
    decoder_fields,
    decoder_map,
    layer_types,
    windowed_layers,
)
from erel_jax.interop.families.family import Family


def qwen2_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> Qwen2Config:
    """`Qwen2Config` from the keys of a Hugging Face Qwen 2 configuration."""
    fields = decoder_fields(document, pooling)
    return Qwen2Config(**fields, **_windows(document, fields["layers"]))


def qwen3_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> Qwen3Config:
    """`Qwen3Config` from the keys of a Hugging Face Qwen 3 configuration."""
    expect(document, "attention_bias", False)
    fields = decoder_fields({"head_dim": 128, **document}, pooling)
    return Qwen3Config(**fields, **_windows(document, fields["layers"]))


def _windows(document: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The window, which counts only with `use_sliding_window`, and the layers that have it: the upper ones."""
    if not document.get("use_sliding_window", False) or document.get("sliding_window", 4096) is None:
        return {"window": None, "windowed": None}
    given, first = windowed_layers(document, layers), document.get("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int):
        raise ConfigError(f"config.json has max_window_layers = {first!r}, expected an integer.")
    windowed = tuple(i >= first for i in range(layers)) if given is None else given
    if not any(windowed):
        return {"window": None, "windowed": None}
    window = integer(document, "sliding_window", 4096)
    return {"window": window, "windowed": None if all(windowed) else windowed}


def _windows_document(config: DecoderConfig) -> dict[str, Any]:
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
        "max_window_layers": config.layers - sum(config.windows),
    }


def qwen2_document(config: Qwen2Config) -> dict[str, Any]:
    """Keys of `Qwen2Model`'s `config.json`."""
    return decoder_document(config, "qwen2", "Qwen2Model") | _windows_document(config)


def qwen3_document(config: Qwen3Config) -> dict[str, Any]:
    """Keys of `Qwen3Model`'s `config.json`."""
    return decoder_document(config, "qwen3", "Qwen3Model") | _windows_document(config) | {"attention_bias": False}


QWEN2 = Family(
    modality="text",
    config=Qwen2Config,
    read=qwen2_config,
    write=qwen2_document,
    weights=decoder_map,
    poolings=POOLINGS,
)
QWEN3 = Family(
    modality="text",
    config=Qwen3Config,
    read=qwen3_config,
    write=qwen3_document,
    weights=decoder_map,
    poolings=POOLINGS,
)
