"""Parameters of an encoder from the tensors of a folder, with one report of everything that does not fit.

Names and shapes are compared before anything is read. Then one tensor at a time is read, checked for NaN and infinity,
and written in the dtype that the spec declares into the slices that the devices will hold; layers are stacked on a
leading axis that way. Beside the placed parameters the host holds one tensor, and where devices have memory of their
own, the slices of one parameter.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from erel_jax import tree
from erel_jax.errors import CheckpointError, NonFiniteError
from erel_jax.interop.host_parts import HostParts
from erel_jax.interop.safetensors_folder import TensorFolder
from erel_jax.interop.weight_map import Source, WeightMap
from erel_jax.module import ParamSpec

_PIECE = 1 << 22
_MANY = 1000  # layers whose missing tensors are still listed one by one


def read_params(tensors: TensorFolder, weight_map: WeightMap, spec: Any, places: Any = None) -> Any:
    """The parameters of a spec.

    Args:
        tensors: the folder's tensors.
        weight_map: names and layouts of the family.
        spec: the encoder's spec.
        places: the spec's tree with a sharding for every parameter, see `sharding.shardings`; None for the default
            device. Of a sharding over several hosts, each host reads the files and keeps its own devices' slices.

    Returns:
        The spec's tree with `jax.Array`s of its shapes and dtypes.

    Raises:
        CheckpointError: tensors are missing, have no place, or have another shape; all of them are listed. Or a
            tensor is not floating point (a quantized checkpoint).
        NonFiniteError: a tensor holds NaN or infinity.
        CorruptArtifactError: a file cannot be read.

    Numerics: values are cast once, from the stored dtype to the declared one, rounding to nearest even.
    """
    found = _by_canonical_name(tensors, weight_map)
    _report(tensors, weight_map, tree.paths(spec), found)

    def load(path: str, leaf: ParamSpec, place: Sharding | None = None) -> jax.Array:
        source, parts = weight_map.sources[path], HostParts(leaf.shape, leaf.dtype, place)
        for i in range(_copies(source, leaf)):
            name = found[source.tensor(i)]
            array = tensors.read(name)
            _check_values(name, array, "Get the weights again; do not train on them.")
            parts.write(source.layout.to_ours(array), i if source.stacked else None)
        return parts.to_devices()

    return tree.map_with_path(load, spec, *(() if places is None else (places,)))


def write_tensors(params: Any, weight_map: WeightMap) -> dict[str, np.ndarray]:
    """The tensors of a folder from parameters: the inverse of `read_params`.

    Args:
        params: an encoder's parameters, plain arrays only.
        weight_map: names and layouts of the family.

    Returns:
        Arrays by the names of the original library, in the dtype of the parameters.

    Raises:
        CheckpointError: a parameter has no name there, for example an adapter that was not merged.
        NonFiniteError: a parameter holds NaN or infinity, which `read_params` would refuse.
    """
    arrays = tree.paths(params)
    strange = sorted(set(arrays) ^ set(weight_map.sources))
    if strange:
        raise CheckpointError(
            f"{len(strange)} parameters do not fit the original model: {', '.join(strange[:8])}. "
            "Merge adapters and dequantize before exporting."
        )
    tensors = {}
    for path, array in arrays.items():
        source = weight_map.sources[path]
        host = np.asarray(jax.device_get(array))
        _check_values(path, host, "Export the last parameters that were finite.")
        copies = host if source.stacked else host[None]
        for i, copy in enumerate(copies):
            name = weight_map.exported(source.tensor(i))
            tensors[name] = np.ascontiguousarray(source.layout.to_theirs(copy))
    return tensors


def _copies(source: Source, leaf: ParamSpec) -> int:
    return leaf.shape[0] if source.stacked else 1


def _their_shape(source: Source, leaf: ParamSpec) -> tuple[int, ...]:
    ours = leaf.shape[1:] if source.stacked else leaf.shape
    try:
        return source.layout.to_theirs(np.broadcast_to(np.float32(0), ours)).shape
    except ValueError as error:  # more elements than an address can count
        raise CheckpointError(
            f"config.json asks for {source.name} with {list(ours)} numbers, which no file holds. Get it again."
        ) from error


def _by_canonical_name(tensors: TensorFolder, weight_map: WeightMap) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in tensors.names:
        canonical = weight_map.canonical(name)
        if canonical in found:
            raise CheckpointError(f"{tensors.folder}: tensors {found[canonical]!r} and {name!r} are the same weight.")
        found[canonical] = name
    return found


def _report(tensors: TensorFolder, weight_map: WeightMap, wanted: dict[str, ParamSpec], found: dict[str, str]) -> None:
    """Raises one error that lists every missing, unexpected and misshaped tensor."""
    missing, misshaped, used = [], [], set()
    most = max(_copies(weight_map.sources[path], leaf) for path, leaf in wanted.items())
    if most > max(len(found), _MANY):
        raise CheckpointError(
            f"config.json asks for {most} layers, {tensors.folder} holds {len(found)} tensors in all. Check that "
            "config.json and the weights belong together."
        )
    for path, leaf in wanted.items():
        source = weight_map.sources[path]
        expected = _their_shape(source, leaf)
        for i in range(_copies(source, leaf)):
            name = source.tensor(i)
            used.add(name)
            if name not in found:
                missing.append(f"{name} {list(expected)}")
            elif (got := tensors.shape(found[name])) != expected:
                misshaped.append(f"{found[name]}: got {list(got)}, expected {list(expected)}")
    unexpected = [
        name for canonical, name in found.items() if canonical not in used and not weight_map.is_ignored(canonical)
    ]
    if missing or misshaped or unexpected:
        lines = [f"the weights in {tensors.folder} do not fit its config.json:"]
        for title, entries in (("missing", missing), ("misshaped", misshaped), ("unexpected", unexpected)):
            lines += [f"  {title} ({len(entries)}):", *(f"    {entry}" for entry in entries)] if entries else []
        lines.append("Check that config.json and the weights belong together.")
        raise CheckpointError("\n".join(lines))


def _check_values(name: str, array: np.ndarray, advice: str) -> None:
    flat = array.reshape(-1)
    # In pieces: the answers of one large bfloat16 tensor would take half its memory.
    bad = sum(
        piece.size - int(np.count_nonzero(np.isfinite(piece)))
        for piece in (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))
    )
    if bad:
        raise NonFiniteError(f"tensor {name!r} holds {bad} values that are NaN or infinite. {advice}")
