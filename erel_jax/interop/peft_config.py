"""The configuration of a `peft` folder: what is read of it, and what is refused."""

import math
import re
from pathlib import Path
from typing import Any

from erel_jax.errors import CheckpointError, CorruptArtifactError, suggest
from erel_jax.folders import safe_join
from erel_jax.interop.peft_prompts import PROMPT_KINDS
from erel_jax.interop.safetensors_folder import read_json

CONFIG = "adapter_config.json"
KINDS = ("LORA", "IA3", "VERA", *PROMPT_KINDS)
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    **dict.fromkeys(
        (
            "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "target_parameters",
            "trainable_token_indices", "alora_invocation_tokens", "lora_bias", "use_qalora", "use_bdlora",
            "monteclora_config", "kasa_config", "arrow_config", "velora_config",
        ),
        (None, False, {}, []),
    ),
}  # fmt: skip
"""Options that change the function, with the values at which they do not; any other value is refused."""
INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""`init_lora_weights` that leave the base's weights alone; peft repeats the others on them whenever it loads."""


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed configuration of a folder.

    Raises:
        CheckpointError: there is none, or it has an option that is not supported.
        CorruptArtifactError: a value of it is malformed.
    """
    path = safe_join(folder, CONFIG)
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}. Point to a folder that peft's save_pretrained wrote.")
    config = read_json(path)
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise CheckpointError(f"{path}: unknown peft_type {kind!r}. {suggest(str(kind), KINDS)}")
    strange = [f"{k}={config[k]!r}" for k, plain in WITHOUT_EFFECT.items() if k in config and config[k] not in plain]
    if strange:
        raise CheckpointError(f"{path}: {', '.join(strange)} is not supported and would change the outputs.")
    if kind == "VERA" and (type(config.get("r")) is not int or config["r"] < 1):
        raise CorruptArtifactError(f"{path}: got r={config.get('r')!r}, expected a number.")
    if kind == "LORA":
        _check_lora(path, config)
    return config


def _check_lora(path: Path, config: dict[str, Any]) -> None:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    rank_fits = isinstance(rank, int) and not isinstance(rank, bool) and rank > 0
    if not rank_fits or isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CorruptArtifactError(f"{path}: got r={rank!r} and lora_alpha={alpha!r}, expected two numbers.")
    for key in ("use_rslora", "use_dora"):
        if not isinstance(config.get(key, False), bool | None):
            raise CorruptArtifactError(f"{path}: got {key}={config[key]!r}, expected true or false.")
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in INITIALIZATIONS:
        raise CheckpointError(
            f"{path}: init_lora_weights={start!r} is not supported, because it changes the base model's weights. Make "
            "a plain LoRA folder in peft: save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )


def chosen(config: dict[str, Any], module: str, layer: int) -> bool:
    """Whether the configuration puts an adapter on that layer of a module, by the rules of peft."""
    layers, name = config.get("layers_to_transform"), module.replace("{i}", str(layer))
    if layers is not None and layer not in (layers if isinstance(layers, list) else [layers]):
        return False
    target, excluded = config.get("target_modules"), config.get("exclude_modules")
    return (target in (None, "all-linear") or _names(target, name)) and not _names(excluded, name)


def _names(pattern: Any, name: str) -> bool:
    if isinstance(pattern, str):
        try:
            return re.fullmatch(pattern, name) is not None
        except re.error as error:
            raise CorruptArtifactError(f"{CONFIG}: {pattern!r} is no regular expression ({error}).") from error
    if not isinstance(pattern, list | None):
        raise CorruptArtifactError(f"{CONFIG}: got modules {pattern!r}, expected a list or a regular expression.")
    return any(name == end or name.endswith(f".{end}") for end in pattern or ())
