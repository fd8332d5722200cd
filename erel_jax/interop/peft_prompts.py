"""The two kinds of `peft` folders whose adapter lies on no kernel: soft prompts and prefixes.

Both keep one array `prompt_embeddings`: [T, D] for a prompt; for a prefix [T, layers·2·F], where each row has the key
of layer 0, its value, the key of layer 1 and so on. A reparameterized prefix is stored as the keys and values that its
network makes, since that is all that `peft` reads back.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.adapters.prefix_tuning import fold_prefix, prefix_tuning
from erel_jax.adapters.prompt_tuning import stack_width
from erel_jax.encoders import Encoder
from erel_jax.errors import CheckpointError, ConfigError

PROMPT_KINDS = {"PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
TENSOR = "prompt_embeddings"


def with_prompts(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], encoder: Encoder, params: Any) -> Any:
    """An encoder's parameters with the prompt or prefix of a folder.

    Args:
        config: the folder's configuration, of one of `PROMPT_KINDS`.
        tensors: its tensors.
        encoder: the encoder of its base model.
        params: its parameters.

    Raises:
        CheckpointError: another tensor than `prompt_embeddings`, or one that does not fit encoder or configuration.
        ConfigError: the encoder reads no text, or has such an adapter already.
    """
    branch = PROMPT_KINDS[config["peft_type"]]
    _check_text(encoder)
    if branch in params:
        raise ConfigError(f"the encoder's parameters have a {branch} already; take it out first.")
    if config.get("num_transformer_submodules", 1) not in (None, 1):
        raise CheckpointError("the adapter is for an encoder and a decoder, expected one for a single stack.")
    if set(tensors) != {TENSOR}:
        raise CheckpointError(f"got tensors {sorted(tensors)}, expected {TENSOR!r} alone.")
    stored = jnp.asarray(tensors[TENSOR].astype(np.float32))
    tokens = config.get("num_virtual_tokens")
    if branch == "prompt":
        _check_shape(stored, (tokens, stack_width(encoder.module.spec)))
        return {**params, "prompt": {"vectors": stored / _factor(encoder)}}
    layers, _, keys = prefix_tuning(encoder.module.spec)["prefix"]["key"].shape
    _check_shape(stored, (tokens, layers * 2 * keys))
    states = stored.reshape(-1, layers, 2, keys).transpose(2, 1, 0, 3)
    return {**params, "prefix": {"key": states[0], "value": states[1]}}


def prompt_contents(encoder: Encoder, params: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(configuration, tensors) of a folder for the prompt or prefix that an encoder's parameters hold.

    Raises:
        ConfigError: both are there, or the encoder reads no text.
    """
    _check_text(encoder)
    if "prompt" in params and "prefix" in params:
        raise ConfigError("got a prompt and a prefix; a peft folder holds one kind. Save them one by one.")
    config: Any = encoder.config
    heads = getattr(config, "kv_heads", config.heads)
    shared = {"num_layers": encoder.layers, "num_transformer_submodules": 1, "task_type": "FEATURE_EXTRACTION"}
    if "prompt" in params:
        tensor = _host(params["prompt"]["vectors"]) * np.float32(_factor(encoder))
        kind = {"peft_type": "PROMPT_TUNING", "token_dim": tensor.shape[1], "num_attention_heads": config.heads}
        kind |= {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None, "tokenizer_name_or_path": None}
    else:
        prefix = fold_prefix(params)["prefix"]
        states = np.stack([_host(prefix["key"]), _host(prefix["value"])])
        _, layers, tokens, keys = states.shape
        tensor = states.transpose(2, 1, 0, 3).reshape(tokens, layers * 2 * keys)
        kind = {"peft_type": "PREFIX_TUNING", "token_dim": keys, "num_attention_heads": heads}
        kind |= {"prefix_projection": False, "encoder_hidden_size": keys}
    return shared | kind | {"num_virtual_tokens": tensor.shape[0]}, {TENSOR: np.ascontiguousarray(tensor)}


def _check_text(encoder: Encoder) -> None:
    if encoder.modality != "text":
        raise ConfigError(
            f"peft has prompts and prefixes for text models alone, this encoder reads {encoder.modality}."
        )


def _check_shape(stored: jax.Array, shape: tuple[Any, int]) -> None:
    if stored.shape != shape:
        raise CheckpointError(
            f"{TENSOR}: got {list(stored.shape)}, expected {list(shape)} for this encoder and num_virtual_tokens. "
            "Check that adapter and base model belong together."
        )


def _factor(encoder: Encoder) -> float:
    """What the encoder multiplies token embeddings by, which `peft` puts its prompts behind (Gemma)."""
    return getattr(encoder.config, "embedding_factor", 1.0)


def _host(array: Any) -> np.ndarray:
    return np.asarray(jax.device_get(array)).astype(np.float32)
