"""Encoders whose embedding is read from all final tokens instead of from one pooled state."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoded, Encoder, Refine
from erel_jax.module import Module


def with_token_head(encoder: Encoder, head: Callable[..., jax.Array]) -> Encoder:
    """The encoder with its embedding computed from its tokens.

    Args:
        encoder: a tower; its own embedding is no longer computed.
        head: `head(params, tokens)`, from the final tokens float32[B, L, D] to the embedding float[B, E]; where tokens
            are merged `head(params, tokens, sizes)` with their sizes float32[B, L].

    Returns:
        The encoder; `head` runs only where the embedding is asked for.
    """

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
        wanted = {"taps": taps, "tokens": tokens or embedding, "hidden_states": hidden_states, "refine": refine}
        out = encoder.module.apply(params, inputs, embedding=False, key=key, train=train, **wanted)
        if not embedding:
            return out
        vector = head(params, out.tokens, *(() if out.sizes is None else (out.sizes,))).astype(jnp.float32)
        if tokens:
            return out.replace(embedding=vector)
        return out.replace(embedding=vector, tokens=None, mask=None, sizes=None)

    return dataclasses.replace(encoder, module=Module(encoder.module.spec, apply))
