"""A thin data-parallel step on `jax.pmap`, for programs that are still written that way.

`compile_step` with named shardings is the main path. JAX keeps pmap in maintenance, implemented on jit and shard_map.
"""

from collections.abc import Callable
from typing import Any

import jax


def pmap_gradient_step(
    loss: Callable[[Any, Any], jax.Array], update: Callable[[Any, Any], Any], axis_name: str = "data"
) -> Callable[[Any, Any], tuple[Any, jax.Array]]:
    """A data-parallel step `(params, batch) -> (params, loss)`.

    Args:
        loss: per-device `loss(params, batch)`, a mean over that device's rows.
        update: `update(params, gradients) -> params`.
        axis_name: name of the mapped axis.

    Returns:
        A step whose `batch` leaves have a leading device axis and whose `params` are replicated the same way (see
        `replicate`). Gradients and loss are averaged over devices with `pmean`, which is right for replicated
        parameters. With parameters *sharded* per device, a loss that itself ends in `pmean` makes gradients come out
        as many times too large as there are devices: keep collectives out of `loss`.
    """

    def step(params: Any, batch: Any) -> tuple[Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, batch)
        value, gradients = jax.lax.pmean((value, gradients), axis_name)
        return update(params, gradients), value

    return jax.pmap(step, axis_name=axis_name)


def replicate(tree: Any, devices: int) -> Any:
    """Adds a leading device axis of size `devices` with equal copies."""
    return jax.tree.map(lambda x: jax.numpy.broadcast_to(x[None], (devices, *x.shape)), tree)


def unreplicate(tree: Any) -> Any:
    """The first device's copy of a replicated tree."""
    return jax.tree.map(lambda x: x[0], tree)
