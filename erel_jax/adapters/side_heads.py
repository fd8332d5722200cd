"""What side networks share above and around their towers: affine heads, fusion, and what an absent modality means.

A modality that an item lacks is declared by a presence mask. Its stored states are replaced by exact zeros before
anything reads them, so that neither vectors nor gradients depend on what was stored there, NaN included, and its
tower's vector is left out of the fusion.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.adapters.checks import check_counts
from erel_jax.adapters.side_tower import check_taps_shape
from erel_jax.errors import ConfigError
from erel_jax.layers import Precision, dense, matmul
from erel_jax.module import ParamSpec, normal, uniform, zeros

PyTree = Any
Presence = jax.Array | Mapping[str, jax.Array]


def affine_spec(width: int, out: int, *, xavier: bool = False, sharded: bool = False) -> dict[str, ParamSpec]:
    """Kernel [D, E] and bias [E]: U(±1/√D), or Xavier normal with a zero bias.

    Args:
        width: D.
        out: E.
        xavier: the second initialization, which the released code has where it replaces a classifier.
        sharded: name both axes of the kernel, for maps too large to keep whole.

    Raises:
        ConfigError: a width below 1.
    """
    check_counts(width=width, embedding=out)
    bound = uniform(1 / math.sqrt(width))
    kernel, bias = (normal(math.sqrt(2 / (width + out))), zeros) if xavier else (bound, bound)
    axes = ("embed", "mlp" if sharded else None)
    return {"kernel": ParamSpec((width, out), axes, kernel), "bias": ParamSpec((out,), (None,), bias)}


def head_of(params: PyTree, rows: int, precision: Precision) -> Callable[[Callable[..., jax.Array]], jax.Array]:
    """A function that takes a tower (`output` → vectors) to float[N, E] the cheaper way for so many rows."""
    output = params["output"]
    if rows > output["kernel"].shape[1]:
        return lambda tower: tower(output=composed(params, precision))

    def stepwise(tower: Callable[..., jax.Array]) -> jax.Array:
        state = tower(output=None)
        if "hidden" in params:
            state = dense(state, params["hidden"]["kernel"], params["hidden"]["bias"], precision)
        return dense(state, output["kernel"], output["bias"], precision)

    return stepwise


def composed(params: PyTree, precision: Precision) -> tuple[jax.Array, jax.Array]:
    """Kernel [D, E] and bias [E] of a head, its two affine maps in one."""
    output = params["output"]
    if "hidden" not in params:
        return output["kernel"], output["bias"]
    hidden = params["hidden"]
    kernel = matmul(hidden["kernel"], output["kernel"], precision)
    bias = matmul(hidden["bias"][None], output["kernel"], precision)[0]
    return kernel, bias + output["bias"].astype(bias.dtype)


def fuse(
    params: PyTree, vectors: dict[str, jax.Array], there: dict[str, jax.Array] | None, precision: Precision
) -> jax.Array:
    """One vector float32[N, E] per item by one affine map of all towers' vectors side by side.

    Args:
        params: with `fusion` (kernel, bias), unless there is one tower alone.
        vectors: float[N, E] by tower, a tower over several modalities included.
        there: bool[N, 1] per modality, or None where every modality is there. Items without any get zeros.
        precision: dtypes of the product.
    """
    if there is None:
        if "fusion" not in params:
            return next(iter(vectors.values())).astype(jnp.float32)
        joined = jnp.concatenate(list(vectors.values()), axis=-1)
        return dense(joined, params["fusion"]["kernel"], params["fusion"]["bias"], precision).astype(jnp.float32)
    columns = list(there.values())
    anything = jnp.any(jnp.concatenate(columns, axis=1), axis=1, keepdims=True)
    kept = [jnp.where(there.get(name, anything), vector, 0.0) for name, vector in vectors.items()]
    if "fusion" not in params:
        return kept[0].astype(jnp.float32)
    fused = dense(jnp.concatenate(kept, axis=-1), params["fusion"]["kernel"], params["fusion"]["bias"], precision)
    return jnp.where(anything, fused, 0.0).astype(jnp.float32)


def presence_columns(
    presence: Presence | None, names: tuple[str, ...], rows: int | None = None
) -> dict[str, jax.Array] | None:
    """bool[N, 1] per modality from bool[N, M] or from bool[N] per modality; None stays None.

    Args:
        presence: the mask; integers count as bool, floating-point numbers do not (NaN would count as present).
        names: the modalities, in order.
        rows: N where it is known.

    Raises:
        ConfigError: other modalities, another number of them or of items, or numbers that are no truth values.
    """
    if presence is None:
        return None
    if isinstance(presence, Mapping):
        unknown = sorted(set(presence) - set(names))
        if unknown or len(presence) != len(names):
            raise ConfigError(f"presence is given for {sorted(presence)}, expected {sorted(names)}.")
        columns = {name: _truth(presence[name], rows, name) for name in names}
        return {name: column.reshape(-1, 1) for name, column in columns.items()}
    whole = presence if hasattr(presence, "ndim") else np.asarray(presence)
    if whole.ndim != 2 or whole.shape[1] != len(names):
        raise ConfigError(f"got presence of shape {whole.shape}, expected [N, {len(names)}] for {names}.")
    return {name: _truth(whole[:, m : m + 1], rows, name) for m, name in enumerate(names)}


def _truth(column: Any, rows: int | None, name: str) -> jax.Array:
    """A modality's presence as bool[N] or bool[N, 1], checked at trace time."""
    column = column if hasattr(column, "ndim") else np.asarray(column)
    counted = rows is None or column.shape[:1] == (rows,)
    if column.shape not in (column.shape[:1], (*column.shape[:1], 1)) or not counted:
        expected = "N" if rows is None else rows
        raise ConfigError(f"{name}: got presence of shape {column.shape}, expected [{expected}], one per item.")
    if column.dtype != bool and not jnp.issubdtype(column.dtype, jnp.integer):
        raise ConfigError(f"{name}: got presence of dtype {column.dtype}, expected bool.")
    return column.astype(bool)


def known_states(
    taps: Mapping[str, tuple[int, int]], states: Mapping[str, jax.Array], presence: Presence | None
) -> tuple[dict[str, jax.Array], dict[str, jax.Array] | None]:
    """What towers may read: checked states with zeros for what is absent, and bool[N, 1] per modality or None.

    Args:
        taps: (K, D) per modality.
        states: float[N, K, D] per modality.
        presence: see `presence_columns`.

    Raises:
        ConfigError: a modality is missing, has another shape or number of items, or is not of floating point (stored
            int8 states are multiplied out first: `taps.widen`), or the presence does not fit.
    """
    for name, shape in taps.items():
        if name not in states:
            raise ConfigError(f"no states of modality {name!r} were given, found {sorted(states)}.")
        check_taps_shape(name, states[name], *shape)
        if not jnp.issubdtype(states[name].dtype, jnp.floating):
            raise ConfigError(f"{name}: got states of dtype {states[name].dtype}, expected floating point.")
    rows = {name: states[name].shape[0] for name in taps}
    if len(set(rows.values())) > 1:
        raise ConfigError(f"got states of {rows} items, expected equally many of each modality.")
    there = presence_columns(presence, tuple(taps), next(iter(rows.values())))
    return {name: states[name] if there is None else blank(states[name], there[name]) for name in taps}, there


def blank(taps: jax.Array, there: jax.Array) -> jax.Array:
    """Taps with the rows of absent items replaced by exact zeros, whatever was stored there."""
    return jnp.where(there[:, :, None], taps, jnp.zeros((), taps.dtype))
