"""Gemma 2 and Gemma 3 text folders."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.decoder import POOLINGS
from erel_jax.encoders.gemma import Gemma2Config, Gemma3Config
from erel_jax.errors import ConfigError
from erel_jax.interop.config_keys import expect, integer, section
from erel_jax.interop.families.decoder import (
    FULL,
    WINDOWED,
    decoder_document,
    decoder_fields,
    decoder_map,
    layer_types,
    required,
    rotary_from,
    rotary_settings,
    windowed_layers,
)
from erel_jax.interop.families.family import Family


def gemma2_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> Gemma2Config:
    """`Gemma2Config` from the keys of a Hugging Face Gemma 2 configuration."""
    if document.get("use_bidirectional_attention"):
        raise ConfigError("config.json has use_bidirectional_attention = true, which is implemented for Gemma 3 alone.")
    fields = _fields(document, pooling, every=2)
    return Gemma2Config(**fields, score_cap=_cap(document))


def gemma3_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> Gemma3Config:
    """`Gemma3Config` from the keys of a Hugging Face Gemma 3 text configuration, in its old or its new form.

    With `use_bidirectional_attention` a token sees half the stated window on either side.
    """
    positions, stored = required(document, "max_position_embeddings"), section(document, "rope_parameters")
    everywhere = section(stored, FULL) or section(document, "rope_scaling")
    local = section(stored, WINDOWED)
    theta = everywhere.get("rope_theta", document.get("rope_theta", 1000000.0))
    local_theta = local.get("rope_theta", document.get("rope_local_base_freq", 10000.0))
    expect(document, "attn_logit_softcapping", None)
    fields = _fields({**document, "rope_parameters": None, "rope_scaling": None}, pooling, every=6)
    fields |= {"rotary": rotary_from(everywhere, theta, positions), "score_cap": None}
    if document.get("use_bidirectional_attention"):
        fields |= {"causal": False, "window": fields["window"] // 2}
    return Gemma3Config(**fields, local_rotary=rotary_from(local, local_theta, positions))


def _fields(document: Mapping[str, Any], pooling: str, every: int) -> dict[str, Any]:
    """The fields of both generations; without `layer_types`, one layer of `every` has no window."""
    expect(document, "attention_bias", False)
    activation = document.get("hidden_activation") or "gelu_pytorch_tanh"
    fields = decoder_fields({"head_dim": 256, **document, "hidden_act": activation}, pooling)
    every = integer(document, "sliding_window_pattern", every)
    windowed = windowed_layers(document, fields["layers"])
    query_width = document.get("query_pre_attn_scalar", 256)
    if isinstance(query_width, bool) or not isinstance(query_width, int | float) or not query_width > 0:
        raise ConfigError(f"config.json has query_pre_attn_scalar = {query_width!r}, expected a positive number.")
    return fields | {
        "window": integer(document, "sliding_window", 4096),
        "windowed": tuple((i + 1) % every > 0 for i in range(fields["layers"])) if windowed is None else windowed,
        "query_width": float(query_width),
    }


def _cap(document: Mapping[str, Any]) -> float | None:
    cap = document.get("attn_logit_softcapping", 50.0)
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int | float) or not cap > 0):
        raise ConfigError(f"config.json has attn_logit_softcapping = {cap!r}, expected a positive number or null.")
    return None if cap is None else float(cap)


def _document(config: Gemma2Config | Gemma3Config, kind: str, original: str) -> dict[str, Any]:
    return decoder_document(config, kind, original) | {
        "hidden_activation": config.activation,
        "query_pre_attn_scalar": int(config.query_width) if config.query_width % 1 == 0 else config.query_width,
        "attn_logit_softcapping": config.score_cap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
        "attention_bias": False,
    }


def gemma2_document(config: Gemma2Config) -> dict[str, Any]:
    """Keys of `Gemma2Model`'s `config.json`."""
    return _document(config, "gemma2", "Gemma2Model")


def gemma3_document(config: Gemma3Config) -> dict[str, Any]:
    """Keys of `Gemma3TextModel`'s `config.json`.

    Raises:
        ConfigError: the scores are capped, which the original has no key for.
    """
    if config.score_cap is not None:
        raise ConfigError(
            f"got a Gemma 3 encoder with score_cap={config.score_cap}, expected None: its config.json cannot say it. "
            "Export one without a cap, or keep the parameters with orbax."
        )
    rotary = {FULL: rotary_settings(config.rotary), WINDOWED: rotary_settings(config.local_rotary)}
    return _document(config, "gemma3_text", "Gemma3TextModel") | {
        "rope_parameters": rotary,
        "rope_local_base_freq": config.local_rotary.theta,
    }


GEMMA2 = Family(
    modality="text",
    config=Gemma2Config,
    read=gemma2_config,
    write=gemma2_document,
    weights=decoder_map,
    poolings=POOLINGS,
)
GEMMA3 = Family(
    modality="text",
    config=Gemma3Config,
    read=gemma3_config,
    write=gemma3_document,
    weights=decoder_map,
    poolings=POOLINGS,
)
