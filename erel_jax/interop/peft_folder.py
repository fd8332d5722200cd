"""Adapter folders of Hugging Face `peft`, read and written: LoRA, rsLoRA, DoRA, (IA)³, VeRA, prompts, prefixes.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Reading wraps the kernels of an encoder's
parameters, so what was trained there runs, trains on and merges here; writing gives a folder that
`peft.PeftModel.from_pretrained` opens on the original model. Folders name modules as they lie in memory: what is
written has the names of transformers 5, what is read may also have those of older ones. Nothing in a folder is
executed: pickled weights (`adapter_model.bin`) are refused, and everything that does not fit comes in one report.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from erel_jax import tree
from erel_jax.adapters.wrapping import is_kernel
from erel_jax.artifacts import ArtifactDir, verify_manifest
from erel_jax.encoders import Encoder
from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError, NonFiniteError
from erel_jax.folders import safe_join
from erel_jax.interop.configurations import family_of
from erel_jax.interop.export import is_artifact
from erel_jax.interop.peft_config import CONFIG, chosen, read_config
from erel_jax.interop.peft_prompts import PROMPT_KINDS, prompt_contents, with_prompts
from erel_jax.interop.peft_vera import leading_factors, shared_factors, take_factors
from erel_jax.interop.safetensors_folder import PICKLES
from erel_jax.interop.weight_map import LINEAR, WeightMap
from erel_jax.layers.kernels import Decomposed, LowRank, Rescaled, ScaledRandom

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector|ia3_l|vera_lambda_[bd])"

Found = dict[str, dict[int, dict[str, np.ndarray]]]


def load_adapter(folder: str | os.PathLike[str], encoder: Encoder, params: Any) -> Any:
    """An encoder's parameters with the adapters of a `peft` folder on their kernels.

    Args:
        folder: a folder that `save_adapter` or `peft`'s `save_pretrained` wrote.
        encoder: the encoder of the folder's base model.
        params: its parameters, plain arrays.

    Returns:
        The parameters with `LowRank`, `Decomposed`, `Rescaled` or `ScaledRandom` kernels where the folder has adapters.
        `trainable.LORA_FACTORS`, `DORA`, `IA3` and `VERA` select what trains, `adapters.merge` folds it in. A prompt or
        prefix comes as a branch beside them (`trainable.PROMPT`, `PREFIX`).

    Raises:
        CheckpointError: the folder has no safetensors weights, an option that is not supported, or tensors that are
            missing, have no place or have another shape than the encoder's kernels; all of them are listed. Adapters
            of what the encoder ignores in its base model, such as an unused pooler, are ignored too.
        CorruptArtifactError: a file is damaged or leads out of the folder.
        NonFiniteError: a tensor holds NaN or infinity.
    """
    folder = Path(folder)
    if is_artifact(folder):
        verify_manifest(folder, kind="adapter")
    config = read_config(folder)
    if config["peft_type"] in PROMPT_KINDS:
        return with_prompts(config, _read_tensors(folder), encoder, params)
    weight_map = family_of(encoder.config).weights(encoder.config)
    tensors = _read_tensors(folder)
    factors = take_factors(tensors) if config["peft_type"] == "VERA" else None
    found, names, strange = _by_kernel(tensors, weight_map, encoder.layers)
    kernels = tree.paths(params, is_leaf=is_kernel)
    _report(folder, config, found, names, strange, {path: kernels.get(path) for path in found})
    made = {path: _kernel(config, kernels[path], _filled(copies, kernels[path])) for path, copies in found.items()}
    if factors is not None:
        drawn = {path: map(jnp.asarray, leading_factors(factors, path, kernels[path].shape)) for path in made}
        made = {path: ScaledRandom(kernels[path], *drawn[path], **parts) for path, parts in made.items()}
    return tree.map_with_path(lambda path, leaf: made.get(path, leaf), params, is_leaf=is_kernel)


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    path = safe_join(folder, WEIGHTS)
    if not path.is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLES)
        if pickled:
            raise CheckpointError(
                f"{folder} holds no {WEIGHTS}, only {', '.join(pickled)}: such files can run code when they are read "
                "and are refused. Load it with peft where that is safe and save_pretrained it again."
            )
        raise CheckpointError(f"{folder} has no {WEIGHTS}. Point to a folder that peft's save_pretrained wrote.")
    try:
        with safe_open(path, "np") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CorruptArtifactError(f"{path} is damaged or not a safetensors file ({error}). Get it again.") from error
    for name, array in tensors.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise CheckpointError(f"{path}: tensor {name!r} is {array.dtype}, expected floating point.")
        _check_finite(f"{path}: {name}", array, "Train or get the adapter again.")
    return tensors


def _check_finite(name: str, array: np.ndarray, advice: str) -> None:
    if not np.isfinite(array.astype(np.float32)).all():
        raise NonFiniteError(f"{name}: the tensor holds NaN or infinity. {advice}")


def _by_kernel(
    tensors: Mapping[str, np.ndarray], weight_map: WeightMap, layers: int
) -> tuple[Found, dict[str, str], list[str]]:
    """Tensors by kernel path, layer (0 where there is no stack) and part; their module by path; names without a place.

    A module has `{i}` in its name for the layer.
    """
    places = {}
    for path, source in weight_map.sources.items():
        if path.endswith("/kernel") and source.layout is LINEAR:
            for module in filter(None, (source.name.removesuffix(".weight"), weight_map.module(source.name))):
                for i in range(layers if "{i}" in module else 1):
                    places[module.format(i=i)] = path, i, module
    found: Found = {}
    names, strange = {}, []
    for name, array in tensors.items():
        matched = re.fullmatch(PARTS, name.removeprefix(PREFIX))
        module = weight_map.canonical(matched[1]) if matched else ""
        if matched and module in places:
            path, i, template = places[module]
            names[path] = matched[1].removesuffix(module) + template
            found.setdefault(path, {}).setdefault(i, {})[matched[2]] = array
        elif not module or not weight_map.is_ignored(f"{module}.weight"):
            strange.append(name)
    return found, names, strange


def _filled(copies: dict[int, dict[str, np.ndarray]], weight: jax.Array) -> dict[int, dict[str, np.ndarray]]:
    """The tensors of every layer; a layer without an adapter gets one that changes nothing and cannot train."""
    first = next(iter(copies.values()))
    plain = {part: np.full_like(array, part == "ia3_l") for part, array in first.items()}
    filled = dict(copies)
    for i in range(weight.shape[0] if weight.ndim == 3 else 1):
        if i not in copies:
            norms = {"lora_magnitude_vector": np.asarray(_norms(weight)[i])} if "lora_magnitude_vector" in first else {}
            filled[i] = {**plain, **norms}
    return filled


def _report(
    folder: Path,
    config: dict[str, Any],
    found: Found,
    names: Mapping[str, str],
    strange: list[str],
    kernels: Mapping[str, Any],
) -> None:
    """Raises one error that lists every tensor that is missing, has no place or has another shape."""
    if not found and not strange:
        raise CheckpointError(f"{folder / WEIGHTS} holds no adapter of a layer that the encoder uses.")
    missing, misshaped = [], []
    for path, copies in found.items():
        weight = kernels[path]
        if weight is None or not hasattr(weight, "ndim"):
            raise ConfigError(f"{path}: got {type(weight).__name__}, expected a plain kernel. Merge adapters first.")
        width, out = weight.shape[-2:]
        for i in range(weight.shape[0] if weight.ndim == 3 else 1):
            if i not in copies and not chosen(config, names[path], i):
                continue
            parts, place = copies.get(i, {}), f"{path}[{i}]" if weight.ndim == 3 else path
            for part, shapes in _shapes(config, width, out).items():
                if part not in parts:
                    missing.append(f"{place} {part}")
                elif parts[part].shape not in shapes:
                    expected = " or ".join(str(list(shape)) for shape in shapes)
                    misshaped.append(f"{place} {part}: got {list(parts[part].shape)}, expected {expected}")
            strange += [f"{place} {part}" for part in parts if part not in _shapes(config, width, out)]
        first = next(iter(copies.values())).get("ia3_l")
        if first is not None and any(first.shape != parts["ia3_l"].shape for parts in copies.values()):
            misshaped.append(f"{path} ia3_l: layers differ in what they scale")
    if missing or misshaped or strange:
        lines = [f"the adapter in {folder} does not fit the encoder:"]
        for title, entries in (("missing", missing), ("misshaped", misshaped), ("without a place", strange)):
            lines += [f"  {title} ({len(entries)}):", *(f"    {entry}" for entry in entries)] if entries else []
        raise CheckpointError("\n".join([*lines, "Check that adapter and base model belong together."]))


def _shapes(config: dict[str, Any], width: int, out: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    if config["peft_type"] == "IA3":
        return {"ia3_l": ((out, 1), (1, width))}
    if config["peft_type"] == "VERA":
        return {"vera_lambda_b": ((out,),), "vera_lambda_d": ((config["r"],),)}
    shapes = {"lora_A.weight": ((config["r"], width),), "lora_B.weight": ((out, config["r"]),)}
    return {**shapes, "lora_magnitude_vector": ((out,),)} if config.get("use_dora") else shapes


def _kernel(config: dict[str, Any], weight: jax.Array, copies: dict[int, dict[str, np.ndarray]]) -> Any:
    def gather(part: str, layout: Any) -> jax.Array:
        arrays = [layout(copies[i][part].astype(np.float32)) for i in sorted(copies)]
        return jnp.asarray(np.stack(arrays) if weight.ndim == 3 else arrays[0])

    if config["peft_type"] == "IA3":
        vector, (rows, _) = gather("ia3_l", np.ravel), copies[0]["ia3_l"].shape
        inputs = rows == 1 and weight.shape[-1] != 1
        return Rescaled(weight, vector, None) if inputs else Rescaled(weight, None, vector)
    if config["peft_type"] == "VERA":
        return {"inner": gather("vera_lambda_d", np.ravel), "outer": gather("vera_lambda_b", np.ravel)}
    rank, alpha = config["r"], float(config["lora_alpha"])
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    a, b = gather("lora_A.weight", np.transpose), gather("lora_B.weight", np.transpose)
    if not config.get("use_dora"):
        return LowRank(weight, a, b, scale)
    return Decomposed(weight, a, b, gather("lora_magnitude_vector", np.ravel) - _norms(weight), scale)


def _norms(weight: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(weight.astype(jnp.float32) ** 2, axis=-2))


def save_adapter(
    folder: str | os.PathLike[str],
    encoder: Encoder,
    params: Any,
    *,
    rank_stabilized: bool = False,
    base_model: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the adapters of an encoder as a folder for `peft`.

    Only what lies on kernels is written. Biases or norms that trained beside it belong to the base model: export that
    with `save_encoder`, or train `trainable.LORA_FACTORS` alone.

    Args:
        folder: the folder to make.
        encoder: the tower.
        params: its parameters, with adapters of one kind (and one rank and scale) over plain kernels, or a prompt or
            a prefix.
        rank_stabilized: say the scale as that of rsLoRA (`alpha / √r`); the outputs are the same either way.
        base_model: Hub id or folder of the base model, stored for people and tools.
        overwrite: replace an existing folder.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder exists, there is no adapter, adapters differ in kind, rank or scale, or lie over other
            kernels or where the original model has no linear layer.
        NonFiniteError: an adapter holds NaN or infinity.
    """
    nodes = tree.paths(params, is_leaf=is_kernel)
    kernels = {path: node for path, node in nodes.items() if is_kernel(node)}
    if not {"prompt", "prefix"}.isdisjoint(params):
        if kernels:
            raise ConfigError("got a prompt or prefix and adapters on kernels; a peft folder holds one kind.")
        config, tensors = prompt_contents(encoder, params)
    else:
        config, tensors = _kernel_contents(encoder, kernels, rank_stabilized)
    for name, array in tensors.items():
        _check_finite(name, array, "Save the last adapter that was finite.")
    config |= {"base_model_name_or_path": base_model, "inference_mode": True, "modules_to_save": None}
    with ArtifactDir(folder, kind="adapter", overwrite=overwrite) as artifact:
        artifact.file(CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, artifact.file(WEIGHTS), metadata={"format": "pt"})
    return Path(folder)


def _kernel_contents(
    encoder: Encoder, kernels: Mapping[str, Any], rank_stabilized: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(configuration, tensors) of a folder for adapters on kernels."""
    weight_map = family_of(encoder.config).weights(encoder.config)
    config = _config_of(kernels, rank_stabilized)
    tensors: dict[str, np.ndarray] = {}
    names: dict[str, list[str]] = {"all": [], "inputs": []}
    for path, kernel in kernels.items():
        source = weight_map.sources.get(path)
        name = "" if source is None else weight_map.module(weight_map.exported(source.name))
        if source is None or not name or source.layout is not LINEAR or not hasattr(kernel.base, "ndim"):
            raise ConfigError(f"{path}: the original model has no plain linear layer there; peft could not load it.")
        names["all"].append(name)
        if isinstance(kernel, Rescaled) and kernel.input_scale is not None:
            names["inputs"].append(name)
        for part, array in _parts(kernel).items():
            for i, copy in enumerate(array if kernel.base.ndim == 3 else array[None]):
                tensors[f"{PREFIX}{name.format(i=i)}.{part}"] = np.ascontiguousarray(copy)
    config["target_modules"] = _pattern(names["all"])
    if config["peft_type"] == "IA3":
        config["feedforward_modules"] = _pattern(names["inputs"]) if names["inputs"] else []
    if config["peft_type"] == "VERA":
        tensors |= shared_factors(kernels)
    return config, tensors


def _config_of(kernels: Mapping[str, Any], rank_stabilized: bool) -> dict[str, Any]:
    if not kernels:
        raise ConfigError("the parameters have no adapter to save. Wrap kernels with adapters.lora, dora or ia3.")
    shared: dict[str, Any] = {"task_type": None}
    kinds = {type(kernel) for kernel in kernels.values()}
    if kinds == {Rescaled}:
        if any(k.input_scale is not None and k.output_scale is not None for k in kernels.values()):
            raise ConfigError("peft scales inputs or outputs of a layer, not both. Merge one of them first.")
        return shared | {"peft_type": "IA3", "fan_in_fan_out": False, "init_ia3_weights": True}
    if kinds == {ScaledRandom}:
        ranks = sorted({kernel.a.shape[-1] for kernel in kernels.values()})
        if len(ranks) > 1:
            raise ConfigError(f"got VeRA ranks {ranks}, expected one for all kernels.")
        kind = {"peft_type": "VERA", "r": ranks[0], "projection_prng_key": 0, "save_projection": True, "d_initial": 0.1}
        return shared | kind | {"vera_dropout": 0.0, "bias": "none", "fan_in_fan_out": False}
    if len(kinds) > 1 or kinds - {LowRank, Decomposed}:
        names = sorted(kind.__name__ for kind in kinds)
        expected = "one kind of LowRank, Decomposed, Rescaled or ScaledRandom"
        raise ConfigError(f"got adapters {names}, expected {expected} for peft.")
    settings = {(kernel.a.shape[-1], kernel.scale) for kernel in kernels.values()}
    if len(settings) > 1:
        raise ConfigError(f"got (rank, scale) {sorted(settings)}, expected one pair for all kernels.")
    rank, scale = settings.pop()
    alpha = round(scale * (math.sqrt(rank) if rank_stabilized else rank), 9)
    return shared | {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "use_rslora": rank_stabilized,
        "use_dora": kinds == {Decomposed},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _parts(kernel: Any) -> dict[str, np.ndarray]:
    """Arrays of a kernel under peft's names and in its layout, stacked where the kernel is."""

    def host(array: Any) -> np.ndarray:
        return np.asarray(jax.device_get(array))

    if isinstance(kernel, Rescaled):
        if kernel.input_scale is not None:
            return {"ia3_l": host(kernel.input_scale)[..., None, :]}
        return {"ia3_l": host(kernel.output_scale)[..., :, None]}
    if isinstance(kernel, ScaledRandom):
        return {"vera_lambda_d": host(kernel.inner), "vera_lambda_b": host(kernel.outer)}
    parts = {
        "lora_A.weight": np.swapaxes(host(kernel.a), -1, -2),
        "lora_B.weight": np.swapaxes(host(kernel.b), -1, -2),
    }
    if isinstance(kernel, Decomposed):
        parts["lora_magnitude_vector"] = host(_norms(kernel.base) + kernel.magnitude_shift.astype(jnp.float32))
    return parts


def _pattern(names: list[str]) -> str:
    """One regular expression over whole module names: a list of endings would also match other layers."""
    alternatives = "|".join(re.escape(name).replace(r"\{i\}", r"\d+") for name in sorted(names))
    return rf"(?:.*\.)?(?:{alternatives})"
