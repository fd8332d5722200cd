"""Losses that look across a batch split over devices.

Under plain `jit` the compiler splits a step over devices by itself. A contrastive loss in tiles, sub-batches that are
encoded one after another, and the ring of `erel_jax.losses` are written for one device's rows instead; `over_devices`
runs them on every device and puts the parts together.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from erel_jax.errors import ConfigError

Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, Any]]]


def over_devices(loss_fn: Loss, mesh: Mesh, axis_name: str = "data") -> Loss:
    """The loss of the whole batch from a loss of one device's rows.

    Args:
        loss_fn: `loss_fn(params, batch, key) -> (loss float32[], aux)` on one device's rows, whose mean over devices is
            wanted. It may use collectives over `axis_name`, as `erel_jax.losses` do with `axis_name`.
        mesh: a mesh of `sharding.make_mesh`.
        axis_name: mesh axis over which batches are split; parameters are replicated.

    Returns:
        A loss function of the same arguments for `training.train_step(..., mesh=mesh)`: loss and aux are means over
        devices, gradients those of the whole batch. Each device draws from a key of its own.

    Raises:
        ConfigError: the mesh has no such axis; when traced, if the devices do not divide the batch.

    Sharding: params[], batch[B_data, ...] -> loss[]. Gradients of parameters are added up in one all-reduce.

    Numerics: differentiate the returned function, not `loss_fn` inside it. What varies over devices is not checked
    (`check_vma=False`): JAX 0.12 cannot lower `erf`, which GELU needs, where it is.
    """
    if axis_name not in mesh.shape:
        raise ConfigError(f"the mesh has axes {tuple(mesh.shape)}, expected {axis_name!r} among them.")
    devices = mesh.shape[axis_name]

    def shard(params: Any, batch: Any, key: jax.Array) -> Any:
        own_key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        return jax.lax.pmean(loss_fn(params, batch, own_key), axis_name)

    specs = (jax.P(), jax.P(axis_name), jax.P())
    split = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=jax.P(), check_vma=False)

    def whole(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
        if any(count % devices for count in rows):
            raise ConfigError(f"got a batch of {max(rows)} rows for {devices} devices; choose a multiple of {devices}.")
        return split(params, batch, key)

    return whole
