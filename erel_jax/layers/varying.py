"""Replicated parameters beside a device's own data, inside `shard_map`.

`shard_map` follows, for every array, the mesh axes over which it may differ between devices. A backward pass of one's
own must give each argument a gradient of the argument's kind, and a replicated kernel that met a device's own rows
would get one that differs. Arrays brought to one kind first need no more care: JAX adds up the gradients of what was
replicated, which is what the whole batch on one device would give.
"""

from typing import Any

import jax


def vary_together(*arrays: Any) -> tuple[Any, ...]:
    """The same arrays, each counted as varying over all mesh axes that one of them varies over.

    Args:
        arrays: arrays of any shapes and dtypes; None stays None.

    Returns:
        As many arrays with equal values. Outside `shard_map`, and where all are of one kind, they are the same objects.
        The gradient of an array that was replicated is the sum over devices.
    """
    kinds = [frozenset() if array is None else jax.typeof(array).manual_axis_type.varying for array in arrays]
    axes = frozenset().union(*kinds)
    return tuple(
        array if array is None or kind == axes else jax.lax.pcast(array, tuple(sorted(axes - kind)), to="varying")
        for array, kind in zip(arrays, kinds, strict=True)
    )
