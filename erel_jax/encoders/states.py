"""How every encoder runs its transformer stack: only as deep as the asked outputs need.

An encoder asks for pooled vectors of some states (*taps*), for its last state, for every state, or a mix. `run_states`
turns that into one scanned stack: taps are pooled inside the scan, so no layer's tokens are kept for them, and layers
above the highest tap are left out when nothing else is wanted.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.layers import BlockConfig, Precision, block, run_stack, unstack
from erel_jax.layers.token_merging import SizedTokens, merging_block

Pool = Callable[[Any], jax.Array]
Layer = Callable[..., Any]


def block_layer(config: BlockConfig, precision: Precision, mask: jax.Array | None) -> Layer:
    """The layer of encoders made of plain blocks.

    Args:
        config: one block.
        precision: dtypes of the block.
        mask: bool broadcastable to [B, H, L, L], True where a token may look, or None.
    """

    def layer(params: Any, state: jax.Array) -> jax.Array:
        return block(config, precision, params, state, mask)

    return layer


def merging_layer(config: BlockConfig, precision: Precision, pairs: int, protected: int) -> Layer:
    """`block_layer` for states of `SizedTokens`; arguments as in `layers.token_merging.merging_block`."""

    def layer(params: Any, state: SizedTokens) -> SizedTokens:
        return merging_block(config, precision, params, state, pairs=pairs, protected=protected)

    return layer


class States(NamedTuple):
    """The outcome of `run_states`.

    Attributes:
        last: float[B, L, D] or `SizedTokens`, the state after the last layer run.
        taps: float32[B, K, D], pooled states in the order asked, or None.
        hidden_states: float32[S, B, L, D], states 0 to the last layer, or None.
    """

    last: Any
    taps: jax.Array | None
    hidden_states: jax.Array | None


def run_states(
    layer: Layer,
    params: Any,
    x: Any,
    *,
    layers: int,
    pool: Pool,
    taps: Sequence[int] | None,
    last: bool,
    hidden_states: bool,
    remat: bool = False,
    constants: Any = None,
    top: Callable[[jax.Array], jax.Array] | None = None,
) -> States:
    """Runs a stack of blocks as deep as needed.

    Args:
        layer: `layer(params of one layer, state) -> state`, see `block_layer`; `constants` add a third argument.
        params: parameters with a leading axis of size `layers`, or a list of `layers` trees.
        x: float[B, L, D] or `SizedTokens`, state 0.
        layers: number of layers in the stack.
        pool: from one state float[B, L, D] to a vector per row float[B, D].
        taps: indices of the states to pool, or None.
        last: whether the caller needs the state after the top layer.
        hidden_states: whether to keep every state.
        remat: recompute layers in the backward pass instead of keeping their activations.
        constants: what else differs between layers: arrays with a leading axis of size `layers`, or None.
        top: applied to the state of the top layer wherever it is read (a final norm), or None.

    Returns:
        `States`. With neither `last` nor `hidden_states`, `States.last` is the state of the highest tap.

    Raises:
        ConfigError: nothing is asked for, a tap is not a state of this encoder, or hidden states are asked for where
            layers merge tokens.
    """
    if isinstance(x, SizedTokens):
        params = _apart(params, layers, hidden_states)
    if taps is not None:
        check_taps(taps, layers)
    elif not (last or hidden_states):
        raise ConfigError("nothing to compute: ask for embedding, tokens, hidden_states or taps.")
    depth = layers if last or hidden_states else max(taps or (layers,))

    def emit(state: Any) -> tuple[jax.Array | None, jax.Array | None]:
        pooled = None if taps is None else pool(state).astype(jnp.float32)
        return pooled, state.astype(jnp.float32) if hidden_states else None

    if constants is not None:
        params, layer = _beside(params, constants, layers), _unpacked(layer)
    wanted = taps is not None or hidden_states
    final, emitted = run_stack(layer, params, x, layers=layers, depth=depth, emit=emit if wanted else None, remat=remat)
    if top is not None and depth == layers:
        final = top(final)
        if wanted:
            emitted = jax.tree.map(lambda all, one: jnp.concatenate([all[:-1], one[None]]), emitted, emit(final))
    pooled, states = emitted if wanted else (None, None)
    if taps is not None and pooled is not None:
        pooled = jnp.take(pooled, np.asarray(taps, np.int32), axis=0).transpose(1, 0, 2)
    return States(final, pooled, states)


def _apart(params: Any, layers: int, hidden_states: bool) -> list[Any]:
    """One tree per layer, for layers that merge tokens: a scan has one shape."""
    if hidden_states:
        raise ConfigError("layers that merge tokens have states of different lengths: ask for taps, or merge none.")
    return list(params) if isinstance(params, list | tuple) else unstack(params, layers)


def _beside(params: Any, constants: Any, layers: int) -> Any:
    """Parameters with the constants of the same layer beside them, stacked or as one tree per layer."""
    if not isinstance(params, list | tuple):
        return {"params": params, "constants": constants}
    rows = [jax.tree.map(lambda c, row=row: c[row], constants) for row in range(layers)]
    return [{"params": one, "constants": row} for one, row in zip(params, rows, strict=True)]


def _unpacked(layer: Layer) -> Layer:
    return lambda both, state: layer(both["params"], state, both["constants"])


def check_taps(taps: Sequence[int], layers: int) -> None:
    """Refuses taps that are not states 0 … `layers`.

    Raises:
        ConfigError: no tap, a tap that is not an integer, or one out of range.
    """
    bad = [t for t in taps if isinstance(t, bool) or not isinstance(t, int | np.integer) or not 0 <= t <= layers]
    if not taps or bad:
        raise ConfigError(
            f"got taps {tuple(taps)}, expected one or more integers from 0 (embedding output) to {layers} (last layer)."
        )


def check_text_inputs(inputs: Mapping[str, jax.Array], max_positions: int) -> tuple[jax.Array, jax.Array]:
    """The ids and the boolean mask of a text batch, with shapes checked at trace time.

    Args:
        inputs: `{"ids": int32[B, L], "mask": bool[B, L]}`.
        max_positions: the longest text the encoder has positions for.

    Returns:
        (ids int32[B, L], mask bool[B, L]).

    Raises:
        ConfigError: a key is missing, shapes differ, ids are not integers, or L is above `max_positions`.
    """
    missing = [name for name in ("ids", "mask") if name not in inputs]
    if missing:
        raise ConfigError(f"text inputs lack {missing}; expected {{'ids': int32[B, L], 'mask': bool[B, L]}}.")
    ids, mask = inputs["ids"], inputs["mask"]
    if ids.ndim != 2 or ids.shape != mask.shape or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ConfigError(
            f"got ids {ids.dtype}{list(ids.shape)} and mask {list(mask.shape)}, expected int32[B, L] and bool[B, L]."
        )
    if ids.shape[1] > max_positions:
        raise ConfigError(
            f"got texts of {ids.shape[1]} tokens, the encoder has positions for {max_positions}; "
            "tokenize with a smaller max_length."
        )
    return ids, mask.astype(bool)


def check_pixels(inputs: Mapping[str, jax.Array], image_size: int, channels: int) -> jax.Array:
    """The pixels of an image batch, with their shape checked at trace time.

    Args:
        inputs: `{"pixels": float32[B, H, W, 3]}`.
        image_size: expected H and W in pixels.
        channels: expected number of channels.

    Returns:
        float[B, H, W, C].

    Raises:
        ConfigError: the key is missing, the shape differs, or pixels are not floating point.
    """
    expected = f"float32[B, {image_size}, {image_size}, {channels}]"
    if "pixels" not in inputs:
        raise ConfigError(f"image inputs lack 'pixels'; expected {{'pixels': {expected}}}.")
    pixels = inputs["pixels"]
    if pixels.ndim != 4 or pixels.shape[1:] != (image_size, image_size, channels):
        raise ConfigError(f"got pixels {list(pixels.shape)}, expected {expected}; run the image processor first.")
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ConfigError(f"got pixels of dtype {pixels.dtype}, expected normalized {expected}.")
    return pixels


def stored(spec: Any, precision: Precision) -> Any:
    """The spec with every parameter stored in `precision.param`."""
    return jax.tree.map(lambda leaf: dataclasses.replace(leaf, dtype=precision.param), spec)
