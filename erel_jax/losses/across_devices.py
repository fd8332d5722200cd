"""How a loss sees the batch of all devices from inside `shard_map` or `pmap`.

Two exchanges exist. *Gathering* brings every device's embeddings to every device: one collective, memory that grows
with the number of devices. The *ring* passes blocks from device to device and looks at one at a time: as many small
messages as devices, and memory that does not grow. Both give the same loss.

Every loss with an `axis_name` returns on each device its part, scaled so that the mean over devices (`jax.lax.pmean`)
is the loss of the global batch.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

PyTree = Any
Exchange = Literal["gather", "ring"]


def gather(parts: PyTree, axis_name: str | None) -> PyTree:
    """Leaves [B, ...] of all devices, one after another: [devices * B, ...]; unchanged without an axis."""
    if axis_name is None:
        return parts
    return jax.tree.map(lambda part: jax.lax.all_gather(part, axis_name, axis=0, tiled=True), parts)


def own_part(values: jax.Array, count: int, axis_name: str | None) -> jax.Array:
    """This device's `count` entries of gathered values [devices * count, ...]."""
    if axis_name is None:
        return values
    return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(axis_name) * count, count)


def total(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Sum over devices."""
    return values if axis_name is None else jax.lax.psum(values, axis_name)


def mean_over_rows(losses: jax.Array, counted: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Mean of the counted rows of the global batch, as this device's part; 0 if no row counts.

    Args:
        losses: float32[B].
        counted: bool or float32[B], weight of each row.
        axis_name: mesh axis over which rows are split.

    Returns:
        float32 scalar; its mean over the axis is `sum(losses * counted) / sum(counted)` of all rows.
    """
    weights = counted.astype(jnp.float32)
    summed = jnp.sum(jnp.where(weights > 0, losses, 0.0) * weights)
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return summed * devices / jnp.maximum(total(jnp.sum(weights), axis_name), 1e-9)


def logsumexp_over_devices(values: jax.Array, axis_name: str | None) -> jax.Array:
    """`log(sum(exp(values)))` over devices, entry by entry, with gradient."""
    if axis_name is None:
        return values
    largest = jax.lax.pmax(jax.lax.stop_gradient(values), axis_name)
    return largest + jnp.log(jax.lax.psum(jnp.exp(values - largest), axis_name))


def ring(
    visit: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    resident: PyTree,
    traveling: PyTree,
    axis_name: str | None,
) -> tuple[PyTree, PyTree]:
    """Lets every device's traveling part visit every device once, and come home.

    Args:
        visit: `visit(resident, traveling)` returns both, updated, with the same shapes.
        resident: what stays on its device.
        traveling: what goes around.
        axis_name: mesh axis; None visits once.

    Returns:
        (resident, traveling) after as many visits as there are devices.

    Only one device's traveling part is held at a time. Differentiating through it would store every visit; losses give
    it a backward pass of their own.
    """
    resident, traveling = visit(resident, traveling)
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    if axis_name is None or devices == 1:
        return resident, traveling
    neighbors = [(device, (device + 1) % devices) for device in range(devices)]

    def pass_on(parts: PyTree) -> PyTree:
        return jax.tree.map(lambda part: jax.lax.ppermute(part, axis_name, neighbors), parts)

    def step(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], None]:
        return visit(carry[0], pass_on(carry[1])), None

    (resident, traveling), _ = jax.lax.scan(step, (resident, traveling), None, length=devices - 1)
    return resident, pass_on(traveling)


def varying_like(value: jax.Array, reference: jax.Array) -> jax.Array:
    """The same scalar, counted as different from device to device wherever `reference` does.

    Inside `shard_map`, a loop needs the same kind of value before and after its body, and a backward pass of one's own
    the same kind of gradient as of argument; constants and replicated parameters are of another kind than what is
    computed from a device's data.
    """
    flag = jnp.ravel(reference)[0] == 0
    return jax.lax.select(flag, value, value)


def filled_like(reference: jax.Array, shape: tuple[int, ...], value: float) -> jax.Array:
    """float32[shape] of one value, of `reference`'s kind; see `varying_like`."""
    return jnp.broadcast_to(varying_like(jnp.float32(value), reference), shape)
