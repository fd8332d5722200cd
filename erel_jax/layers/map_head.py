"""Attention pooling: one learned query reads all tokens (the MAP head of SigLIP)."""

from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.attention import attend
from erel_jax.layers.dense import dense
from erel_jax.layers.mlp import mlp, mlp_spec
from erel_jax.layers.norm import layer_norm, layer_norm_spec
from erel_jax.layers.precision import Precision
from erel_jax.module import ParamSpec, normal, zeros


def map_head_spec(width: int, mlp_width: int) -> dict[str, Any]:
    """Query vector, attention with one joint input projection `[D, 3D]`, norm and feed-forward network.

    Args:
        width: model width D.
        mlp_width: feed-forward width F.
    """
    draw = normal(0.02)
    return {
        "probe": {"vector": ParamSpec((width,), ("embed",), draw)},
        "attention": {
            "input": {
                "kernel": ParamSpec((width, 3 * width), ("embed", "heads"), draw),
                "bias": ParamSpec((3 * width,), ("heads",), zeros),
            },
            "output": {
                "kernel": ParamSpec((width, width), ("heads", "embed"), draw),
                "bias": ParamSpec((width,), ("embed",), zeros),
            },
        },
        "norm": layer_norm_spec(width),
        "mlp": mlp_spec(width, mlp_width),
    }


def map_head(
    params: dict[str, Any],
    tokens: jax.Array,
    *,
    heads: int,
    activation_name: str,
    eps: float,
    precision: Precision,
    score_bias: jax.Array | None = None,
) -> jax.Array:
    """One vector per row: the probe attends to all tokens, then a residual feed-forward network.

    Args:
        params: a tree of `map_head_spec`.
        tokens: float[B, P, D], after the final norm.
        heads: attention heads H.
        activation_name: activation of the feed-forward network.
        eps: epsilon of the norm.
        precision: dtypes of the head.
        score_bias: float broadcastable to [B, H, 1, P], added to the scores (`token_merging.size_bias`), or None.

    Returns:
        float[B, D] in `precision.accumulate`.
    """
    batch, length, width = tokens.shape
    joint, output = params["attention"]["input"], params["attention"]["output"]
    probe = jnp.broadcast_to(params["probe"]["vector"].astype(tokens.dtype), (batch, 1, width))
    # The probe goes through the joint projection as one more token: slicing the kernel would not work for kernels
    # that are pytrees (low rank, int8).
    projected = dense(jnp.concatenate([probe, tokens], axis=1), joint["kernel"], joint["bias"], precision)
    query, key, value = jnp.split(projected.reshape(batch, length + 1, 3 * heads, width // heads), 3, axis=2)
    read = attend(query[:, :1], key[:, 1:], value[:, 1:], None, precision, score_bias=score_bias)
    x = dense(read.reshape(batch, 1, width), output["kernel"], output["bias"], precision)
    normed = layer_norm(params["norm"], x, eps)
    return (x + mlp(params["mlp"], normed, activation_name=activation_name, precision=precision))[:, 0]
