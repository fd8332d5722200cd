"""Structured pruning: an encoder with fewer heads, neurons or layers, as a smaller config and sliced parameters.

Every layer keeps as many heads and neurons as the others, its own most important ones, so that layers still form one
stack. Nothing is masked: shapes shrink. What the cut costs is healed by a short distillation from the source.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.compression.merged_tokens import rebuilt
from erel_jax.encoders import Encoder
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import FLOAT32, Precision

PyTree = Any

BRANCHES = {"embeddings", "layers", "final_norm", "projection", "pooler"}
"""Branches of a spec none of which is as wide as heads or neurons are, but for the stack."""


def most_important(importance: np.ndarray, drop: float) -> np.ndarray:
    """Which parts stay when a share of them goes.

    Args:
        importance: float[layers, parts], or float[parts] (for layers themselves).
        drop: share in [0, 1) to drop of each row, rounded to whole parts; at least one stays.

    Returns:
        int[..., kept], ascending; of equally important parts the first stay.

    Raises:
        ConfigError: the share is outside [0, 1).
        NonFiniteError: an importance is NaN.
    """
    if not 0 <= drop < 1:
        raise ConfigError(f"got drop={drop}, expected a share from 0 to below 1.")
    if np.isnan(importance).any():
        raise NonFiniteError(
            f"{int(np.isnan(importance).sum())} of {importance.size} importances are NaN; look at the calibration rows."
        )
    parts = importance.shape[-1]
    kept = max(1, parts - round(drop * parts))
    order = np.argsort(-importance, axis=-1, kind="stable")
    return np.sort(order[..., :kept], axis=-1)


def prune(
    encoder: Encoder,
    params: PyTree,
    *,
    heads: np.ndarray | None = None,
    neurons: np.ndarray | None = None,
    layers: np.ndarray | None = None,
    precision: Precision = FLOAT32,
) -> tuple[Encoder, PyTree]:
    """The encoder with only the named parts.

    Args:
        encoder: an encoder of plain blocks with separate projections: ViT, DeiT, CLIP, BERT and others; SigLIP's image
            tower, BEiT and DINOv2 can lose layers alone, because other parts of them have the same widths.
        params: its parameters, with plain kernels where something is cut (merge adapters first, quantize after).
        heads: int[layers, H'], heads kept per layer of the source; None keeps all.
        neurons: int[layers, F'], feed-forward neurons kept per layer of the source.
        layers: int[L'], layers kept.
        precision: dtypes of the new encoder.

    Returns:
        (encoder, parameters), in both of which the cut parts are gone.

    Raises:
        ConfigError: indices out of range, repeated or of the wrong shape, an encoder that cannot be cut there, or
            kernels that are not plain arrays.
    """
    config, stack, changes = encoder.config, params["layers"], {}
    if isinstance(stack, list | tuple):
        raise ConfigError("got layers as a list, expected a stack; prune before serving_params.")
    if heads is not None:
        _check_widths(encoder, "heads")
        width = config.head_width or config.width // config.heads
        stack = _cut_heads(stack, _kept(heads, encoder.layers, config.heads, "heads"), config.heads)
        changes |= {"heads": int(heads.shape[1]), "head_width": width}
    if neurons is not None:
        _check_widths(encoder, "mlp_width")
        stack = _cut_neurons(stack, _kept(neurons, encoder.layers, config.mlp_width, "neurons"))
        changes |= {"mlp_width": int(neurons.shape[1])}
    if layers is not None:
        chosen = _kept(np.asarray(layers)[None], 1, encoder.layers, "layers")[0]
        stack = jax.tree.map(lambda leaf: leaf[chosen], stack)
        changes |= {"layers": len(chosen)}
    return rebuilt(encoder, precision, **changes), {**params, "layers": stack}


def _check_widths(encoder: Encoder, field: str) -> None:
    spec = encoder.module.spec
    plain = set(spec) <= BRANCHES and "relative" not in spec["layers"] and "qkv" not in spec["layers"]["attention"]
    if not plain or not {field, "head_width"} <= set(encoder.config.__dataclass_fields__):
        raise ConfigError(f"an encoder with a {type(encoder.config).__name__} can lose layers alone.")


def _kept(indices: np.ndarray, rows: int, parts: int, name: str) -> np.ndarray:
    indices = np.asarray(indices)
    ordered = np.sort(indices, axis=-1)
    bad = (
        indices.ndim != 2
        or indices.shape[0] != rows
        or not 0 < indices.shape[1] <= parts
        or not np.issubdtype(indices.dtype, np.integer)
    )
    if bad or ordered[:, 0].min() < 0 or ordered[:, -1].max() >= parts or (np.diff(ordered, axis=1) == 0).any():
        raise ConfigError(
            f"got {name} {indices.dtype}{list(indices.shape)}, expected {rows} rows of different indices below {parts}."
        )
    return indices


def _plain(stack: PyTree, branch: str) -> dict[str, Any]:
    kernels = {name: part["kernel"] for name, part in stack[branch].items() if "kernel" in part}
    wrapped = sorted(name for name, kernel in kernels.items() if not hasattr(kernel, "ndim"))
    if wrapped:
        raise ConfigError(
            f"{branch}: {wrapped} are not plain kernels; merge adapters first and quantize after pruning."
        )
    return stack[branch]


def _cut_heads(stack: PyTree, kept: np.ndarray, heads: int) -> PyTree:
    attention = dict(_plain(stack, "attention"))
    for name in ("query", "key", "value"):
        attention[name] = jax.tree.map(lambda leaf: _take(leaf, kept, -1, heads), attention[name])
    kernel = _take(attention["output"]["kernel"], kept, -2, heads)
    return {**stack, "attention": {**attention, "output": {**attention["output"], "kernel": kernel}}}


def _cut_neurons(stack: PyTree, kept: np.ndarray) -> PyTree:
    mlp = dict(_plain(stack, "mlp"))
    neurons = mlp["down"]["kernel"].shape[-2]
    for name in set(mlp) - {"down"}:
        mlp[name] = jax.tree.map(lambda leaf: _take(leaf, kept, -1, neurons), mlp[name])
    kernel = _take(mlp["down"]["kernel"], kept, -2, neurons)
    return {**stack, "mlp": {**mlp, "down": {**mlp["down"], "kernel": kernel}}}


def _take(leaf: jax.Array, kept: np.ndarray, axis: int, parts: int) -> jax.Array:
    """Blocks `kept` int[layers, …] of a negative axis that is made of `parts` of them, layer by layer."""
    place = leaf.ndim + axis
    blocks = leaf.reshape(*leaf.shape[:place], parts, -1, *leaf.shape[place + 1 :])
    chosen = [jnp.take(one, rows, axis=axis - 1) for one, rows in zip(blocks, kept, strict=True)]
    return jnp.stack(chosen).reshape(*leaf.shape[:place], -1, *leaf.shape[place + 1 :])
