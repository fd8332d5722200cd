"""What all encoders share: one `apply` around an architecture's own way in and way out.

An architecture says how inputs become state 0, how a state becomes one vector, and how its top is read; `tower` makes
an `Encoder` of that, with every option of the contract in one place.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoded, Encoder, Refine
from erel_jax.encoders.prompts import enter_prompted
from erel_jax.encoders.states import Layer, Pool, block_layer, merging_layer, run_states, stored
from erel_jax.layers import BlockConfig, Precision
from erel_jax.layers.token_merging import SizedTokens, sized
from erel_jax.module import Module


class Entry(NamedTuple):
    """How one batch enters the stack.

    Attributes:
        x: float[B, L, D], state 0, or `SizedTokens` where layers merge tokens (`merging_entry`).
        layer: `layer(params of one layer, state) -> state`; it closes over the batch's masks and positions. With
            `constants` it takes those of its layer as a third argument.
        pool: from a state to float[B, D].
        mask: bool[B, L] of real tokens, or None where all are.
        constants: what differs between layers besides their parameters, with a leading axis of the layers, or None.
    """

    x: Any
    layer: Layer
    pool: Pool
    mask: jax.Array | None
    constants: Any = None


def merging_entry(
    x: jax.Array,
    config: BlockConfig,
    precision: Precision,
    *,
    pairs: int,
    protected: int,
    pool: Callable[[jax.Array, jax.Array | None], jax.Array],
) -> Entry:
    """The `Entry` of plain blocks that see everything, merging tokens where `pairs` is above 0.

    Args:
        x: float[B, L, D], state 0.
        config, precision: one block and its dtypes.
        pairs, protected: as in `layers.token_merging.merge_most_similar`.
        pool: `pool(tokens, sizes)`, from float[B, L, D] and float32[B, L] or None to float[B, D].
    """
    if pairs == 0:
        return Entry(x, block_layer(config, precision, None), lambda state: pool(state, None), None)
    layer = merging_layer(config, precision, pairs, protected)
    return Entry(sized(x), layer, lambda state: pool(state.tokens, state.sizes), None)


def tower(
    *,
    modality: str,
    config: Any,
    spec: Any,
    precision: Precision,
    enter: Callable[[Any, Mapping[str, jax.Array]], Entry],
    head: Callable[[Any, jax.Array], jax.Array],
    top: Callable[[Any, jax.Array], jax.Array],
    embedding_width: int,
    remat: bool,
    top_is_a_state: bool = False,
) -> Encoder:
    """An `Encoder` from the parts that differ between architectures.

    Args:
        modality, embedding_width, config: as in `Encoder`; `layers` and `width` of the config are read here.
        spec, precision: parameters, with the stack under "layers", and the encoder's dtypes.
        enter: `enter(params, inputs)` checks the inputs and embeds them.
        head: `head(params, pooled)` turns the pooled last state float[B, D] into the embedding float[B, E].
        top: `top(params, state)` turns the last state into the tokens returned (the final norm, if any).
        top_is_a_state: the last state is what `top` returns, for taps and embedding as well, as decoders count.
        remat: whether the backward pass recomputes layers.
    """

    as_tokens = (lambda params, state: state) if top_is_a_state else top

    def apply(
        params: Any,
        inputs: Mapping[str, jax.Array],
        *,
        taps: Sequence[int] | None = None,
        embedding: bool = True,
        tokens: bool = False,
        hidden_states: bool = False,
        refine: Refine | None = None,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Encoded:
        (x, layer, pool, mask, constants), own, layers = enter_prompted(enter, params, inputs, layers=config.layers)
        wanted = {"taps": taps, "last": embedding or tokens, "hidden_states": hidden_states or refine is not None}
        fixed = {"layers": config.layers, "remat": remat, "top": partial(top, params) if top_is_a_state else None}
        read = {"pool": lambda state: pool(own(state)), "constants": constants}
        last, pooled, every = run_states(layer, layers, x, **read, **wanted, **fixed)
        last = own(last) if refine is None else refine(own(every), mask)
        vector = head(params, pool(last)).astype(jnp.float32) if embedding else None
        shown: dict[str, Any] = _shown(partial(as_tokens, params), last, mask) if tokens else {}
        return Encoded(embedding=vector, taps=pooled, hidden_states=own(every) if hidden_states else None, **shown)

    return Encoder(
        module=Module(stored(spec, precision), apply),
        modality=modality,
        config=config,
        layers=config.layers,
        width=config.width,
        embedding_width=embedding_width,
    )


def _shown(as_tokens: Callable[[jax.Array], jax.Array], last: Any, mask: jax.Array | None) -> dict[str, Any]:
    states, sizes = last if isinstance(last, SizedTokens) else (last, None)
    return {"tokens": as_tokens(states).astype(jnp.float32), "mask": mask, "sizes": sizes}
