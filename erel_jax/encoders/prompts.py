"""Soft prompts and prefixes: what a tower does when its parameters hold a branch `prompt` or `prefix`.

A *prompt* is trained vectors that stand in the sequence: before the token embeddings of a text, where they get
positions like tokens, and behind state 0 of an image, video or sound. A *prefix* is trained keys and values that every
layer sees before those of its tokens; tokens of a text count their positions from behind it. Both take slots of a
text's positions, every token sees them, and no result is read from them: pooled vectors, tokens and hidden states are
those of the input's own tokens.

`adapters.prompt_tuning` and `adapters.prefix_tuning` put the branches into a spec.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.layers.dense import dense
from erel_jax.layers.embedding import PromptedTable
from erel_jax.layers.precision import FLOAT32
from erel_jax.layers.token_merging import SizedTokens

Enter = Callable[[Any, Mapping[str, jax.Array]], Any]


class Prompted(NamedTuple):
    """A batch on its way into the stack.

    Attributes:
        entry: the architecture's `Entry`; state 0 holds the prompts, while `pool` and `mask` are for own tokens.
        own: from a state float[..., L', D] to the slots of the input's own tokens float[..., L, D].
        layers: the stack's parameters with each layer's prefix.
    """

    entry: Any
    own: Callable[[Any], Any]
    layers: Any


def enter_prompted(enter: Enter, params: Any, inputs: Mapping[str, jax.Array], *, layers: int) -> Prompted:
    """Enters a stack with the prompts and prefixes that the parameters hold, if any.

    Args:
        enter: the architecture's way in, see `tower`.
        params: the encoder's parameters; `prompt` is `{"vectors": float[T, D]}`, `prefix` as `prefix_states` reads it.
        inputs: the batch.
        layers: number of layers.

    Raises:
        ConfigError: a text and its prompts are longer than the encoder has positions for, or layers merge tokens
            behind which prompts would stand.
    """
    entry = enter(params, inputs)
    vectors = params["prompt"]["vectors"] if "prompt" in params else None
    prefix = prefix_states(params["prefix"], layers) if "prefix" in params else None
    stack = params["layers"] if prefix is None else _with_prefix(params["layers"], prefix)
    if "ids" in inputs and (vectors is not None or prefix is not None):
        return _text(enter, params, inputs, entry, vectors, 0 if prefix is None else prefix["key"].shape[1], stack)
    if vectors is None:
        return Prompted(entry, lambda state: state, stack)
    if isinstance(entry.x, SizedTokens):
        raise ConfigError("prompts and merged tokens exclude each other: set merged_tokens=0, or take a prefix.")
    length, dtype = entry.x.shape[1], entry.x.dtype
    behind = jnp.broadcast_to(vectors.astype(dtype)[None], (entry.x.shape[0], *vectors.shape))
    entry = entry._replace(x=jnp.concatenate([entry.x, behind], axis=1))
    return Prompted(entry, lambda state: state[..., :length, :], stack)


def prefix_states(prefix: Mapping[str, Any], layers: int) -> dict[str, jax.Array]:
    """Keys and values of a prefix.

    Args:
        prefix: `key` and `value` float[layers, T, F], or, reparameterized, `table` float[T, F], `up` and `down` with
            kernels [F, R] and [R, 2·layers·F] and biases: `tanh(table W_up + b) W_down + b'`.
        layers: number of layers.

    Returns:
        `{"key", "value"}` float[layers, T, F].
    """
    if "table" not in prefix:
        return {name: prefix[name] for name in ("key", "value")}
    # The trained tree stays float32 in every policy, and it is small.
    up, down = prefix["up"], prefix["down"]
    hidden = jnp.tanh(dense(prefix["table"], up["kernel"], up["bias"], FLOAT32))
    states = dense(hidden, down["kernel"], down["bias"], FLOAT32)
    states = states.reshape(states.shape[0], layers, 2, -1).transpose(2, 1, 0, 3)
    return {"key": states[0], "value": states[1]}


def _text(
    enter: Enter,
    params: Any,
    inputs: Mapping[str, jax.Array],
    plain: Any,
    vectors: jax.Array | None,
    keys: int,
    stack: Any,
) -> Prompted:
    """The text behind as many slots as prefix and prompts take; those of the prefix are cut off again."""
    prompts = 0 if vectors is None else vectors.shape[0]
    front = ((0, 0), (keys + prompts, 0))
    longer = {
        **inputs,
        "ids": jnp.pad(inputs["ids"], front),
        "mask": jnp.pad(inputs["mask"].astype(bool), front, constant_values=True),
    }
    if vectors is not None:
        embeddings, token = params["embeddings"], params["embeddings"]["token"]
        table = PromptedTable(token["table"], jnp.pad(vectors, ((keys, 0), (0, 0))))
        params = {**params, "embeddings": {**embeddings, "token": {**token, "table": table}}}
    try:
        entry = enter(params, longer)
    except ConfigError as error:
        raise ConfigError(f"with {keys + prompts} slots for prompts and prefix: {error}") from error
    mask = None if entry.mask is None else entry.mask[:, keys + prompts :]
    entry = entry._replace(x=entry.x[:, keys:], pool=plain.pool, mask=mask)
    return Prompted(entry, lambda state: state[..., prompts:, :], stack)


def _with_prefix(layers: Any, prefix: dict[str, jax.Array]) -> Any:
    def placed(one: Any, states: dict[str, jax.Array]) -> Any:
        return {**one, "attention": {**one["attention"], "prefix": states}}

    if not isinstance(layers, list | tuple):
        return placed(layers, prefix)
    return [placed(one, jax.tree.map(lambda x, row=row: x[row], prefix)) for row, one in enumerate(layers)]
