"""Partial fine-tuning: the top layers of an encoder train, the layers below are frozen and never differentiated.

A stack is one array per parameter, so training a part of it means cutting it: `partial_layers` gives the same encoder
with its stack in two pieces, `layers` below and `top_layers` above, and `cut_layers` cuts the parameters to fit.
`trainable.TOP_LAYERS` selects the upper piece. The pieces run layer by layer, not as a scan, so that the backward pass
ends where the frozen layers begin.
"""

import dataclasses
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.errors import ConfigError
from erel_jax.layers import unstack
from erel_jax.module import Module, ParamSpec

PyTree = Any


def partial_layers(encoder: Encoder, top: int) -> Encoder:
    """The encoder with its top layers apart.

    Args:
        encoder: any encoder with a stack `layers`.
        top: how many of the last layers stand under `top_layers`.

    Returns:
        An encoder of the same function on parameters that `cut_layers` makes.

    Raises:
        ConfigError: `top` is not between 1 and the number of layers minus 1, or the stack is cut already.
    """
    _refuse_cut(encoder.module.spec)
    below = _below(encoder.layers, top)

    def cut(leaf: ParamSpec, layers: int) -> ParamSpec:
        return dataclasses.replace(leaf, shape=(layers, *leaf.shape[1:]))

    stack = encoder.module.spec["layers"]
    spec = {
        **encoder.module.spec,
        "layers": jax.tree.map(lambda leaf: cut(leaf, below), stack),
        "top_layers": jax.tree.map(lambda leaf: cut(leaf, top), stack),
    }

    def apply(params: Any, *inputs: Any, **options: Any) -> Any:
        rest = {name: branch for name, branch in params.items() if name != "top_layers"}
        layers = unstack(params["layers"], below) + unstack(params["top_layers"], top)
        return encoder.module.apply({**rest, "layers": layers}, *inputs, **options)

    return dataclasses.replace(encoder, module=Module(spec, apply))


def top_sixth(layers: int) -> int:
    """The share of the stack that the method `partial_layers` trains: 2 of 12 layers, at least one."""
    return max(1, layers // 6)


def stacked_layers(params: PyTree) -> int:
    """Number of layers of an encoder, read from its parameters."""
    return jax.tree.leaves(params["layers"])[0].shape[0]


def cut_layers(params: PyTree, top: int) -> PyTree:
    """An encoder's parameters cut for `partial_layers(encoder, top)`.

    Raises:
        ConfigError: `top` is not between 1 and the number of layers minus 1, or the stack is cut already.
    """
    _refuse_cut(params)
    below = _below(stacked_layers(params), top)
    lower = jax.tree.map(lambda p: p[:below], params["layers"])
    return {**params, "layers": lower, "top_layers": jax.tree.map(lambda p: p[below:], params["layers"])}


def join_layers(params: PyTree) -> PyTree:
    """The inverse of `cut_layers`: parameters of the encoder as it was, for serving and export.

    Raises:
        ConfigError: the parameters are not cut.
    """
    if "top_layers" not in params:
        raise ConfigError(
            f"got parameters with {sorted(params)}, expected those that cut_layers made, with top_layers."
        )
    rest = {name: branch for name, branch in params.items() if name != "top_layers"}
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), params["layers"], params["top_layers"])
    return {**rest, "layers": joined}


def _refuse_cut(branches: PyTree) -> None:
    if "top_layers" in branches:
        raise ConfigError("the stack is cut in layers and top_layers already; join it first: adapters.join_layers.")
    if "layers" not in branches:
        raise ConfigError(f"got {sorted(branches)}, expected an encoder with a stack called layers.")


def _below(layers: int, top: int) -> int:
    if isinstance(top, bool) or not isinstance(top, Integral) or not 0 < top < layers:
        raise ConfigError(f"got top={top} of {layers} layers, expected 1 to {layers - 1}; to train all, use 'full'.")
    return layers - top
