"""Multi-head scaled dot-product attention."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import dense
from erel_jax.layers.dropout import dropout
from erel_jax.layers.precision import Precision
from erel_jax.module import Initializer, ParamSpec, normal, zeros


def attention_spec(width: int, *, bias: bool = True, kernel_init: Initializer | None = None) -> dict[str, Any]:
    """Query, key, value and output projections `[D, D]`, with biases `[D]` unless `bias` is False."""
    kernel_init = kernel_init or normal(0.02)

    def projection(axes: tuple[str, str]) -> dict[str, ParamSpec]:
        kernel = ParamSpec((width, width), axes, kernel_init)
        return {"kernel": kernel, "bias": ParamSpec((width,), axes[1:], zeros)} if bias else {"kernel": kernel}

    inward, outward = ("embed", "heads"), ("heads", "embed")
    return {
        "query": projection(inward),
        "key": projection(inward),
        "value": projection(inward),
        "output": projection(outward),
    }


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    precision: Precision,
    *,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """`softmax(q kᵀ / √K) v` per head.

    Two batched products and a softmax on CPU; the same program on GPU and TPU, where XLA fuses it.

    Args:
        query: float[B, L, H, K].
        key, value: float[B, T, H, K].
        mask: bool broadcastable to [B, H, L, T], True where a query may look; None lets every query see every key.
        precision: operands in `compute`, scores and softmax in `accumulate`.
        dropout_rate, dropout_key: dropout on the probabilities; no key means none.

    Returns:
        float[B, L, H, K] in `accumulate`. A query whose keys are all masked gets 0, not an average of padding.
    """
    compute, wide = precision.compute, precision.accumulate
    scores = jnp.einsum(
        "blhk,bthk->bhlt", query.astype(compute), key.astype(compute), preferred_element_type=wide
    ) / math.sqrt(query.shape[-1])
    if mask is None:
        probabilities = jax.nn.softmax(scores, axis=-1)
    else:
        visible = jnp.broadcast_to(mask, scores.shape)
        probabilities = jax.nn.softmax(scores, axis=-1, where=visible)
    probabilities = dropout(probabilities, dropout_rate, dropout_key, train=dropout_key is not None)
    return jnp.einsum(
        "bhlt,bthk->blhk", probabilities.astype(compute), value.astype(compute), preferred_element_type=wide
    )


def self_attention(
    params: dict[str, Any],
    x: jax.Array,
    mask: jax.Array | None,
    *,
    heads: int,
    precision: Precision,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Self-attention with its four projections.

    Args:
        params: a tree of `attention_spec`.
        x: float[B, L, D].
        mask: as in `attend`.
        heads: number of heads H; D must be a multiple of it.

    Returns:
        float[B, L, D] in `precision.accumulate`.
    """
    batch, length, width = x.shape

    def project(name: str) -> jax.Array:
        y = dense(x, params[name]["kernel"], params[name].get("bias"), precision)
        return y.reshape(batch, length, heads, width // heads)

    mixed = attend(
        project("query"), project("key"), project("value"), mask, precision,
        dropout_rate=dropout_rate, dropout_key=dropout_key,
    )  # fmt: skip
    return dense(mixed.reshape(batch, length, width), params["output"]["kernel"], params["output"].get("bias"), precision)
