"""What folders of decoders share: names of weights, rotary settings, windows."""

import math
from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.decoder import DecoderConfig
from erel_jax.errors import ConfigError, suggest
from erel_jax.interop.config_keys import boolean, integer, number
from erel_jax.interop.weight_map import SAME, Source, WeightMap, linear, table
from erel_jax.layers.rotary import SCALINGS, Rotary

WINDOWED, FULL = "sliding_attention", "full_attention"
_HEADS = (r"lm_head\.weight", r"(score|classifier|qa_outputs)\..*", r"(layers\.\d+\.self_attn\.)?rotary_emb\..*")


def required(document: Mapping[str, Any], key: str) -> int:
    """A positive integer that the configuration of every decoder has.

    Raises:
        ConfigError: the key is missing, or its value is another.
    """
    if key not in document:
        raise ConfigError(f"config.json lacks {key}, which every decoder's has. Get the file again.")
    return integer(document, key, 1)


def decoder_fields(document: Mapping[str, Any], pooling: str) -> dict[str, Any]:
    """The fields that every decoder reads from the same keys, all but its windows.

    Raises:
        ConfigError: a size is missing, or a value is not implemented.
    """
    heads, width = required(document, "num_attention_heads"), required(document, "hidden_size")
    kv_heads = document.get("num_key_value_heads")
    head_width = document.get("head_dim")
    return {
        "vocabulary": required(document, "vocab_size"),
        "width": width,
        "layers": required(document, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads if kv_heads is None else integer(document, "num_key_value_heads", heads),
        "head_width": width // heads if head_width is None else integer(document, "head_dim", 128),
        "mlp_width": required(document, "intermediate_size"),
        "max_positions": required(document, "max_position_embeddings"),
        "activation": document.get("hidden_act", "silu"),
        "eps": number(document, "rms_norm_eps", 1e-6),
        "rotary": rotary_of(document),
        "causal": boolean(document, "is_causal", True),
        "pooling": pooling,
    }


def rotary_of(document: Mapping[str, Any]) -> Rotary:
    """Rotary settings in their new form (`rope_parameters`) or their old one (`rope_theta` and `rope_scaling`).

    Raises:
        ConfigError: a kind of scaling that is not implemented, or values that are no numbers.
    """
    found = document.get("rope_parameters") or document.get("rope_scaling") or {}
    if not isinstance(found, Mapping) or any(isinstance(value, Mapping) for value in found.values()):
        raise ConfigError(f"config.json has rotary settings {found!r}, expected one flat object.")
    theta = found.get("rope_theta") or document.get("rope_theta") or 10000.0
    original = document.get("original_max_position_embeddings")
    found = found if original is None else {**found, "original_max_position_embeddings": original}
    return rotary_from(found, theta, required(document, "max_position_embeddings"))


def rotary_from(found: Mapping[str, Any], theta: Any, positions: int) -> Rotary:
    """`Rotary` from one object of rotary settings.

    Args:
        found: the object; without `rope_type` (or its old name `type`) there is no scaling.
        theta: base of the wavelengths.
        positions: the original context where the object does not give it.

    Raises:
        ConfigError: a kind of scaling that is not implemented, or values that are no numbers.
    """
    kind = found.get("rope_type", found.get("type", "default"))
    if not isinstance(kind, str) or kind not in SCALINGS:
        nearest = suggest(str(kind), SCALINGS)
        raise ConfigError(f"config.json has rope_type = {kind!r}, which is not implemented. {nearest}")
    if found.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(f"config.json has partial_rotary_factor = {found['partial_rotary_factor']!r}; only 1.0 is.")
    original, factor = found.get("original_max_position_embeddings") or positions, found.get("factor")
    if factor is None and kind in ("yarn", "longrope") and _is_number(original):
        factor = positions / original
    values: dict[str, Any] = {"theta": theta} | ({} if kind == "default" else {"factor": factor})
    if kind == "llama3":
        values |= {"low": found.get("low_freq_factor"), "high": found.get("high_freq_factor")}
    if kind == "yarn":
        values |= {"low": found.get("beta_slow") or 1, "high": found.get("beta_fast") or 32}
    if kind in ("llama3", "yarn", "longrope"):
        values["original_positions"] = original
    if wrong := {name: v for name, v in values.items() if not _is_number(v)}:
        raise ConfigError(f"config.json has rotary settings of type {kind!r} with {wrong}, expected numbers.")
    settings: dict[str, Any] = {name: float(v) for name, v in values.items()}
    if "original_positions" in settings:
        settings["original_positions"] = int(original)
    if kind in ("yarn", "longrope"):
        settings["attention"] = _attention(found, kind, settings["factor"], int(original))
    if kind == "yarn":
        settings["truncate"] = bool(found.get("truncate", True))
    if kind == "longrope":
        settings |= {name: _factors(found, f"{name}_factor") for name in ("short", "long")}
        settings["factor"] = max(settings["factor"], 1.0)  # it enters the attention factor alone
    return Rotary(scaling=kind, **settings)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _factors(found: Mapping[str, Any], key: str) -> tuple[float, ...]:
    factors = found.get(key)
    if not isinstance(factors, list | tuple) or not all(_is_number(factor) for factor in factors):
        raise ConfigError(f"config.json has {key} = {factors!r}, expected one number for each pair of channels.")
    return tuple(float(factor) for factor in factors)


def _attention(found: Mapping[str, Any], kind: str, factor: float, original: int) -> float:
    """The factor of cosines and sines: as stated, else what the methods' authors derive from the context's growth."""
    stated = found.get("attention_factor")
    if stated is not None:
        if not _is_number(stated):
            raise ConfigError(f"config.json has attention_factor = {stated!r}, expected a number.")
        return float(stated)
    if factor <= 1:
        return 1.0
    if kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original))
    above, below = found.get("mscale"), found.get("mscale_all_dim")
    if _is_number(above) and _is_number(below) and above and below:
        return (0.1 * above * math.log(factor) + 1.0) / (0.1 * below * math.log(factor) + 1.0)
    return 0.1 * math.log(factor) + 1.0


def rotary_settings(rotary: Rotary) -> dict[str, Any]:
    """The inverse of `rotary_from`, the base included."""
    found: dict[str, Any] = {"rope_type": rotary.scaling, "rope_theta": rotary.theta}
    if rotary.scaling != "default":
        found["factor"] = rotary.factor
    if rotary.scaling == "llama3":
        found |= {"low_freq_factor": rotary.low, "high_freq_factor": rotary.high}
    if rotary.scaling == "yarn":
        found |= {"beta_slow": rotary.low, "beta_fast": rotary.high, "truncate": rotary.truncate}
    if rotary.scaling == "longrope":
        found |= {"short_factor": list(rotary.short), "long_factor": list(rotary.long)}
    if rotary.scaling in ("yarn", "longrope"):
        found["attention_factor"] = rotary.attention
    if rotary.scaling in ("llama3", "yarn", "longrope"):
        found["original_max_position_embeddings"] = rotary.original_positions
    return found


def windowed_layers(document: Mapping[str, Any], layers: int) -> tuple[bool, ...] | None:
    """Which layers have the window by `layer_types`, or None where that key is missing.

    Raises:
        ConfigError: another number of entries than layers, or a kind of layer that is not implemented.
    """
    kinds = document.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list | tuple):
        raise ConfigError(f"config.json has layer_types = {kinds!r}, expected a list with one entry for each layer.")
    strange = sorted({str(kind) for kind in kinds} - {WINDOWED, FULL})
    if strange or len(kinds) != layers:
        raise ConfigError(
            f"config.json has {len(kinds)} layer_types for {layers} layers, of kinds not implemented: {strange}."
        )
    return tuple(kind == WINDOWED for kind in kinds)


def decoder_document(config: DecoderConfig, kind: str, original: str) -> dict[str, Any]:
    """Keys of a decoder's `config.json`, without its windows.

    A decoder has no head here, so nothing is tied to its embeddings.
    """
    return {
        "architectures": [original],
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "hidden_act": config.activation,
        "rms_norm_eps": config.eps,
        "rope_parameters": rotary_settings(config.rotary),
        "rope_theta": config.rotary.theta,
        "is_causal": config.causal,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": "float32",
        "erel_jax_pooling": config.pooling,
    }


def layer_types(config: DecoderConfig) -> list[str]:
    """The window of each layer under the names of `config.json`."""
    return [WINDOWED if windowed else FULL for windowed in config.windows]


def decoder_map(config: DecoderConfig) -> WeightMap:
    """Names of the bare model; the language-model head, tied or stored, and heads of task models are ignored."""
    layer = "layers.{i}"
    sources = {
        **table("embeddings/token", "embed_tokens"),
        **linear("layers/attention/query", f"{layer}.self_attn.q_proj", config.qkv_bias),
        **linear("layers/attention/key", f"{layer}.self_attn.k_proj", config.qkv_bias),
        **linear("layers/attention/value", f"{layer}.self_attn.v_proj", config.qkv_bias),
        **linear("layers/attention/output", f"{layer}.self_attn.o_proj", False),
        **linear("layers/mlp/gate", f"{layer}.mlp.gate_proj", False),
        **linear("layers/mlp/up", f"{layer}.mlp.up_proj", False),
        **linear("layers/mlp/down", f"{layer}.mlp.down_proj", False),
    }
    norms = {"final_norm": "norm", "layers/attention_norm": f"{layer}.input_layernorm"}
    if config.norm_after:
        norms |= {
            "layers/attention_after_norm": f"{layer}.post_attention_layernorm",
            "layers/mlp_norm": f"{layer}.pre_feedforward_layernorm",
            "layers/mlp_after_norm": f"{layer}.post_feedforward_layernorm",
        }
    else:
        norms["layers/mlp_norm"] = f"{layer}.post_attention_layernorm"
    if config.qk_norm:
        norms["layers/attention/query_norm"] = f"{layer}.self_attn.q_norm"
        norms["layers/attention/key_norm"] = f"{layer}.self_attn.k_norm"
    sources |= {f"{path}/scale": Source(f"{name}.weight", SAME) for path, name in norms.items()}
    return WeightMap(sources, ("model.",), _HEADS)
