"""Prefix tuning: trained keys and values before those of each layer's tokens (Li and Liang 2021, arXiv 2101.00190).

They are stacked like the layers and scanned with them. With `reparameterize` they come from a small network over one
table, which the paper found steadier to train; `fold_prefix` puts its result in its place for serving and export.
"""

from typing import Any

import jax

from erel_jax.adapters.checks import check_counts
from erel_jax.adapters.prompt_tuning import check_new
from erel_jax.adapters.wrapping import array_spec
from erel_jax.encoders.prompts import prefix_states
from erel_jax.module import ParamSpec, normal, uniform, zeros

PyTree = Any


def prefix_tuning(spec: PyTree, *, tokens: int = 10, reparameterize: int | None = None) -> PyTree:
    """Adds a prefix to every layer of an encoder's spec.

    Unlike other adapters, a prefix changes the outputs as soon as it is there: its values, N(0, 0.02²), take a share of
    the attention.

    Args:
        spec: an encoder's spec. Bring parameters in with `module.fill`; the encoder's `apply` finds the prefix there.
        tokens: length T of the prefix.
        reparameterize: inner width R of the network `tanh(table W_up + b) W_down + b'` that makes keys and values;
            None trains them as they are.

    Returns:
        The spec with `prefix/key` and `prefix/value` [layers, T, F], F being the width of a layer's keys, or
        with `prefix/table` [T, F] and the network's `up` and `down`; `trainable.PREFIX` selects them.

    Raises:
        ConfigError: T or R is below 1, or the encoder has a prefix already.
    """
    check_new(spec, "prefix", tokens)
    attention = spec["layers"]["attention"]
    fused = "qkv" in attention
    kernel = array_spec("layers/attention", attention["qkv" if fused else "key"]["kernel"])
    layers, width = kernel.shape[0], kernel.shape[-1] // (3 if fused else 1)
    if reparameterize is None:
        states = ParamSpec((layers, tokens, width), ("layers", None, "heads"), normal(0.02))
        return {**spec, "prefix": {"key": states, "value": states}}
    check_counts(reparameterize=reparameterize)

    def linear(inputs: int, outputs: int) -> dict[str, ParamSpec]:
        return {
            "kernel": ParamSpec((inputs, outputs), (None, None), uniform(inputs**-0.5)),
            "bias": ParamSpec((outputs,), (None,), zeros),
        }

    table = ParamSpec((tokens, width), (None, None), normal(1.0))
    network = {"up": linear(width, reparameterize), "down": linear(reparameterize, 2 * layers * width)}
    return {**spec, "prefix": {"table": table, **network}}


def fold_prefix(params: PyTree) -> PyTree:
    """The same encoder with a reparameterized prefix as plain keys and values; others are returned as they are."""
    if "prefix" not in params or "table" not in params["prefix"]:
        return params
    layers = jax.tree.leaves(params["layers"])[0].shape[0]
    return {**params, "prefix": prefix_states(params["prefix"], layers)}
