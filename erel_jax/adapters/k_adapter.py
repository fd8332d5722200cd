"""K-adapter: a network beside the frozen encoder that reads the tokens of chosen states (arXiv 2002.01808).

At each chosen state stands an adapter: a projection down, a few transformer blocks and a projection up, added to its
input, which is the state plus what the adapter before gave. The last adapter's tokens and the encoder's own are joined
and mapped to the encoder's width; pooling and everything behind it read that in place of the last state.

It is the forerunner of side networks: nothing inside the encoder changes, and no backward pass runs through it. What
differs is that it reads whole sequences with attention of its own where a side network reads one pooled vector per
state. So it costs more per step, and what it reads would have to be stored token by token to be cached; it therefore
runs with the encoder at every step.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.adapters.checks import check_counts
from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.states import check_taps
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, Precision, block, dense, run_stack, stack_spec
from erel_jax.module import Module, ParamSpec, normal, zeros

PyTree = Any


def k_adapter(
    encoder: Encoder,
    precision: Precision = FLOAT32,
    *,
    states: Sequence[int] | None = None,
    bottleneck: int | None = None,
    blocks: int = 2,
) -> Encoder:
    """The encoder with a K-adapter behind it.

    The map that joins both starts as the encoder's half alone, so the model is unchanged. Projections are drawn from
    N(0, (2e-4)²), as in the released recommendation baseline.

    Args:
        encoder: any encoder; taps and hidden states stay its own.
        precision: dtypes of the adapters.
        states: which states have an adapter; None takes the embedding output and the last but one.
        bottleneck: inner width R; None takes a quarter of the encoder's width (192 of 768).
        blocks: transformer blocks per adapter, of the kind BERT has, with up to 12 heads.

    Returns:
        An encoder whose parameters hold `k_adapter` beside its own. All hidden states are kept while it runs.

    Raises:
        ConfigError: a state does not exist or is named twice, R or the number of blocks is below 1, or the encoder has
            a K-adapter already.
    """
    if "k_adapter" in encoder.module.spec:
        raise ConfigError("the encoder has a k_adapter already; one is all it can have.")
    chosen = _chosen(states, encoder.layers)
    inner = encoder.width // 4 if bottleneck is None else bottleneck
    check_counts(bottleneck=inner, blocks=blocks)
    config = BlockConfig(width=inner, heads=math.gcd(inner, 12), mlp_width=4 * inner, norm="post")
    spec = {**encoder.module.spec, "k_adapter": _spec(encoder.width, config, chosen, blocks, precision)}

    def apply(params: Any, inputs: Mapping[str, jax.Array], **options: Any) -> Any:
        rest = {name: branch for name, branch in params.items() if name != "k_adapter"}
        if options.get("embedding", True) or options.get("tokens", False):
            options["refine"] = partial(_refine, params["k_adapter"], chosen, config, blocks, precision)
        return encoder.module.apply(rest, inputs, **options)

    return dataclasses.replace(encoder, module=Module(spec, apply))


def _chosen(states: Sequence[int] | None, layers: int) -> tuple[int, ...]:
    if states is None:
        return tuple(dict.fromkeys((0, layers - 1)))
    if not isinstance(states, Iterable):
        raise ConfigError(f"got states={states!r}, expected a list of states.")
    chosen = tuple(states)
    check_taps(chosen, layers)
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"got states={chosen}, expected each state once: it has one adapter.")
    return chosen


def _spec(width: int, config: BlockConfig, chosen: Sequence[int], blocks: int, precision: Precision) -> PyTree:
    def linear(inputs: int, outputs: int, init: Any) -> dict[str, ParamSpec]:
        return {
            "kernel": ParamSpec((inputs, outputs), (None, None), init, precision.param),
            "bias": ParamSpec((outputs,), (None,), zeros, precision.param),
        }

    stack = jax.tree.map(lambda leaf: dataclasses.replace(leaf, dtype=precision.param), stack_spec(config, blocks))
    adapter = {
        "down": linear(width, config.width, normal(2e-4)),
        "layers": stack,
        "up": linear(config.width, width, normal(2e-4)),
    }
    return {**{f"state_{state}": adapter for state in chosen}, "join": linear(2 * width, width, _first_half)}


def _first_half(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    del key
    return jnp.eye(*shape, dtype=dtype)


def _refine(
    params: Any,
    chosen: Sequence[int],
    config: BlockConfig,
    blocks: int,
    precision: Precision,
    states: jax.Array,
    mask: jax.Array | None,
) -> jax.Array:
    """What the encoder goes on with, float[B, L, D], from its states float32[S, B, L, D]."""
    visible = None if mask is None else mask[:, None, None, :]
    given = jnp.zeros_like(states[0])
    for state in chosen:
        part, read = params[f"state_{state}"], states[state] + given
        narrow = dense(read, part["down"]["kernel"], part["down"]["bias"], precision)
        narrow, _ = run_stack(
            lambda one, x: block(config, precision, one, x, visible), part["layers"], narrow, layers=blocks
        )
        given = read + dense(narrow, part["up"]["kernel"], part["up"]["bias"], precision)
    joined = jnp.concatenate([states[-1], given], axis=-1)
    return dense(joined, params["join"]["kernel"], params["join"]["bias"], precision)
