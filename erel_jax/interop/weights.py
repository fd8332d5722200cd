"""Parameters of an encoder from the tensors of a folder, with one report of everything that does not fit.

Names and shapes are compared before anything is read. Layers are stacked on a leading axis, every array is checked
for NaN and infinity and cast to the dtype that the spec declares.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import tree
from erel_jax.errors import CheckpointError, NonFiniteError
from erel_jax.interop.safetensors_folder import TensorFolder
from erel_jax.interop.weight_map import Source, WeightMap
from erel_jax.module import ParamSpec


def read_params(tensors: TensorFolder, weight_map: WeightMap, spec: Any) -> Any:
    """The parameters of a spec.

    Args:
        tensors: the folder's tensors.
        weight_map: names and layouts of the family.
        spec: the encoder's spec.

    Returns:
        The spec's tree with `jax.Array`s of its shapes and dtypes on the default device.

    Raises:
        CheckpointError: tensors are missing, have no place, or have another shape; all of them are listed. Or a
            tensor is not floating point (a quantized checkpoint).
        NonFiniteError: a tensor holds NaN or infinity.
        CorruptArtifactError: a file cannot be read.
    """
    wanted = tree.paths(spec)
    found = _by_canonical_name(tensors, weight_map)
    _report(tensors, weight_map, wanted, found)
    slots = {
        found[source.name.format(i=i)]: (path, i)
        for path, leaf in wanted.items()
        for source in [weight_map.sources[path]]
        for i in range(_copies(path, leaf))
    }
    parts: dict[str, list[Any]] = {path: [None] * _copies(path, leaf) for path, leaf in wanted.items()}
    for name, array in tensors.read(list(slots)):
        path, i = slots[name]
        _check_values(name, array)
        ours = weight_map.sources[path].layout.to_ours(array)
        parts[path][i] = ours.astype(np.dtype(wanted[path].dtype), copy=False)

    def assemble(path: str, leaf: ParamSpec) -> jax.Array:
        arrays = parts.pop(path)  # popped, so that a model is not held twice
        return jnp.asarray(np.stack(arrays) if _stacked(path) else np.ascontiguousarray(arrays[0]))

    return tree.map_with_path(assemble, spec)


def write_tensors(params: Any, weight_map: WeightMap) -> dict[str, np.ndarray]:
    """The tensors of a folder from parameters: the inverse of `read_params`.

    Args:
        params: an encoder's parameters, plain arrays only.
        weight_map: names and layouts of the family.

    Returns:
        Arrays by the names of the original library, in the dtype of the parameters.

    Raises:
        CheckpointError: a parameter has no name there, for example an adapter that was not merged.
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
        copies = host if _stacked(path) else host[None]
        for i, copy in enumerate(copies):
            name = weight_map.exported(source.name.format(i=i))
            tensors[name] = np.ascontiguousarray(source.layout.to_theirs(copy))
    return tensors


def _stacked(path: str) -> bool:
    return path.startswith("layers/")


def _copies(path: str, leaf: ParamSpec) -> int:
    return leaf.shape[0] if _stacked(path) else 1


def _their_shape(source: Source, path: str, leaf: ParamSpec) -> tuple[int, ...]:
    ours = leaf.shape[1:] if _stacked(path) else leaf.shape
    return source.layout.to_theirs(np.broadcast_to(np.float32(0), ours)).shape


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
    for path, leaf in wanted.items():
        source = weight_map.sources[path]
        expected = _their_shape(source, path, leaf)
        for i in range(_copies(path, leaf)):
            name = source.name.format(i=i)
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


def _check_values(name: str, array: np.ndarray) -> None:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise CheckpointError(
            f"tensor {name!r} is {array.dtype}, expected floating point; quantized folders are not read."
        )
    if not np.isfinite(array).all():
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise NonFiniteError(
            f"tensor {name!r} holds {bad} values that are NaN or infinite. Get the weights again; do not train on them."
        )
