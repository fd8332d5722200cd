"""From logical axis names to mesh axes.

A rules table maps the logical axes that `ParamSpec`s and batches carry to mesh axes. The four tables: `replicated`
(every device holds everything; the batch is split), `fsdp` (parameters split along their widest logical dimension over
`data`), `tensor` (heads, MLP and vocabulary over `model`) and `fsdp_tensor` (both).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from erel_jax.errors import ConfigError, suggest

Rules = Mapping[str, str | None]

_TENSOR = {"heads": "model", "mlp": "model", "vocab": "model"}

RULES: dict[str, Rules] = {
    "replicated": {"batch": "data"},
    "fsdp": {"batch": "data", "embed": "data"},
    "tensor": {"batch": "data", **_TENSOR},
    "fsdp_tensor": {"batch": "data", "embed": "data", **_TENSOR},
}


def named_rules(name: str) -> Rules:
    """The rules table called `name`.

    Raises:
        ConfigError: unknown name, with the nearest known one.
    """
    if name not in RULES:
        raise ConfigError(f"unknown sharding rules {name!r}. {suggest(name, RULES)}")
    return RULES[name]


def partition_spec(axes: Sequence[str | None], rules: Rules) -> PartitionSpec:
    """The PartitionSpec of an array with the given logical axes.

    Raises:
        ConfigError: two dimensions of one array map to the same mesh axis.
    """
    mapped = [None if axis is None else rules.get(axis) for axis in axes]
    used = [axis for axis in mapped if axis is not None]
    if len(used) != len(set(used)):
        raise ConfigError(f"logical axes {tuple(axes)} map to mesh axes {tuple(mapped)}: one mesh axis is used twice.")
    return PartitionSpec(*mapped)


def fitted_spec(shape: Sequence[int], axes: Sequence[str | None], mesh: Mesh, rules: Rules) -> PartitionSpec:
    """`partition_spec`, leaving whole every dimension that its mesh axis does not divide."""
    spec = partition_spec(axes, rules)
    sizes = dict(zip(mesh.axis_names, mesh.devices.shape, strict=True))
    fitted = [
        axis if axis is not None and size % sizes[axis] == 0 else None for size, axis in zip(shape, spec, strict=True)
    ]
    return PartitionSpec(*fitted)


def shardings(spec: Any, mesh: Mesh, rules: Rules) -> Any:
    """A NamedSharding for every parameter of a spec.

    Args:
        spec: nested dict (or kernel pytrees) of `ParamSpec`.
        mesh: a mesh of `make_mesh`.
        rules: a table of `RULES` or one's own.

    Returns:
        The same tree of `NamedSharding`. A dimension that its mesh axis does not divide stays whole; `sharding_report`
        shows what that costs.
    """
    return jax.tree.map(lambda s: NamedSharding(mesh, fitted_spec(s.shape, s.axes, mesh, rules)), spec)


def batch_sharding(mesh: Mesh, rank: int) -> NamedSharding:
    """Splits the leading (batch) axis of an array of the given rank over `data`."""
    return NamedSharding(mesh, PartitionSpec("data", *([None] * (rank - 1))))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharding_report(spec: Any, mesh: Mesh, rules: Rules) -> dict[str, int]:
    """Bytes of a spec in all, per device, and replicated under the rules.

    Returns:
        `{"total_bytes", "bytes_per_device", "replicated_bytes"}`.
    """
    total = per_device = replicated = 0
    sizes = dict(zip(mesh.axis_names, mesh.devices.shape, strict=True))
    for leaf in jax.tree.leaves(spec):
        itemsize = jax.numpy.dtype(leaf.dtype).itemsize
        bytes_here = itemsize
        for size in leaf.shape:
            bytes_here *= size
        parts = 1
        for axis in fitted_spec(leaf.shape, leaf.axes, mesh, rules):
            parts *= sizes[axis] if axis is not None else 1
        total += bytes_here
        per_device += bytes_here // parts
        replicated += bytes_here if parts == 1 else 0
    return {"total_bytes": total, "bytes_per_device": per_device, "replicated_bytes": replicated}
