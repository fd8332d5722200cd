"""Multi-head scaled dot-product attention.

Like `dense`, attention has its own backward pass: the cotangent is cast to the compute dtype before each product, the
unnormalized weights are kept in that dtype alone, and the division by their sum comes after the second product, where
it touches K values per query instead of T.
"""

import math
from collections.abc import Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.layers.dense import dense
from erel_jax.layers.kept import as_bits, from_bits
from erel_jax.layers.precision import Precision
from erel_jax.layers.varying import vary_together
from erel_jax.module import Initializer, ParamSpec, normal, zeros


def attention_spec(
    width: int,
    *,
    bias: bool | Collection[str] = True,
    kernel_init: Initializer | None = None,
    inner: int | None = None,
) -> dict[str, Any]:
    """Query, key and value projections `[D, H·K]` and the output projection `[H·K, D]`.

    Args:
        width: model width D.
        bias: whether all projections have biases `[D]`, or the names of those that do.
        kernel_init: initializer of the kernels.
        inner: width H·K of all heads together; None means D.
    """
    inner = inner or width
    kernel_init = kernel_init or normal(0.02)

    def projection(name: str, axes: tuple[str, str]) -> dict[str, ParamSpec]:
        sides = (inner, width) if name == "output" else (width, inner)
        kernel = ParamSpec(sides, axes, kernel_init)
        biased = bias if isinstance(bias, bool) else name in bias
        return {"kernel": kernel, "bias": ParamSpec(sides[1:], axes[1:], zeros)} if biased else {"kernel": kernel}

    inward, outward = ("embed", "heads"), ("heads", "embed")
    axes = {"query": inward, "key": inward, "value": inward, "output": outward}
    return {name: projection(name, axes[name]) for name in axes}


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    precision: Precision,
    *,
    scale: float | None = None,
    score_bias: jax.Array | None = None,
    score_cap: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """`softmax(cap(q kᵀ · scale) + bias) v` per head, with `cap(s) = c tanh(s / c)`.

    Args:
        query: float[B, L, H, K].
        key, value: float[B, T, G, K], G a divisor of H: one key head serves H / G query heads in a row, and is not
            repeated for them.
        mask: bool broadcastable to [B, H, L, T], True where a query may look; None lets every query see every key.
            With a prefix before the tokens it may have rows for the prefix too: the last L count.
        precision: operands in `compute`, scores and softmax in `accumulate`.
        scale: factor of the scores; None means 1 / √K.
        score_bias: float broadcastable to [B, H, L, T] (relative positions), or None. Where it is for the last keys
            alone, those before them get 0.
        score_cap: c, or None for no cap (Gemma 2 has one).
        dropout_rate, dropout_key: dropout on the probabilities; no key means none.

    Returns:
        float[B, L, H, K] in `accumulate`. A query whose keys are all masked gets 0, not an average of padding.
    """
    batch, length, heads, _ = query.shape
    if heads % key.shape[2]:
        raise ConfigError(f"got {heads} query heads for {key.shape[2]} key heads, expected a multiple.")
    shape = (batch, heads, length, key.shape[1])
    visible = None if mask is None else jnp.broadcast_to(mask[..., -length:, :], shape)
    kept = None
    if dropout_key is not None and dropout_rate > 0.0:
        kept = jax.random.bernoulli(dropout_key, 1.0 - dropout_rate, shape)
    served = key.shape[2]
    groups = (batch * served,) if _heads_join_the_batch() else (batch, served)

    def by_head(x: jax.Array) -> jax.Array:
        # Query heads of one key head follow each other in H, so together they are one longer row of queries.
        return x.transpose(0, 2, 1, 3).reshape(*groups, -1, x.shape[3])

    def grouped(x: Any) -> jax.Array | None:
        return None if x is None else jnp.reshape(x, (*groups, -1, shape[3]))

    scaled = query * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if score_bias is not None and score_bias.shape[-1] not in (1, shape[-1]):
        beyond = [(0, 0)] * (score_bias.ndim - 1)
        score_bias = jnp.pad(score_bias, [*beyond, (shape[-1] - score_bias.shape[-1], 0)])
    bias = None if score_bias is None else jnp.broadcast_to(score_bias.astype(precision.accumulate), shape)
    operands = vary_together(by_head(scaled), by_head(key), by_head(value), grouped(bias))
    mixed = _mix(*operands, grouped(visible), grouped(kept), dropout_rate, score_cap, precision)
    return mixed.reshape(batch, heads, length, -1).transpose(0, 2, 1, 3)


def _heads_join_the_batch() -> bool:
    """Whether batch and heads are one axis of the products.

    XLA's CPU backend multiplies [B·H, L, K] two to four times as fast as [B, H, L, K]. Where a mesh splits the heads,
    joining the two axes would gather them first, and other backends do not care.
    """
    return jax.default_backend() == "cpu" and jax.sharding.get_abstract_mesh().shape.get("model", 1) == 1


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _mix(query, key, value, bias, visible, kept, dropout_rate: float, cap: float | None, precision) -> jax.Array:
    """Attention on float[..., L, K] and float[..., T, K], the query already scaled; bias and masks are [..., L, T]."""
    return _mix_forward(query, key, value, bias, visible, kept, dropout_rate, cap, precision)[0]


def _mix_forward(query, key, value, bias, visible, kept, dropout_rate, cap, precision):
    like = tuple(jnp.zeros((0,), x.dtype) for x in (query, key, value))
    query, key, value = (x.astype(precision.compute) for x in (query, key, value))
    scores = _product(query, key, -1, -1, precision)
    slope, like_bias = None, None if bias is None else jnp.zeros((0,), bias.dtype)
    if cap is not None:
        bent = jnp.tanh(scores / cap)
        scores, slope = cap * bent, (1.0 - bent * bent).astype(precision.compute)
    if bias is not None:
        scores = scores + bias
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    if visible is not None:
        weights = jnp.where(visible, weights, 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    total = jnp.where(total > 0, total, 1.0)
    weights = weights.astype(precision.compute)
    mixed = _product(_dropped(weights, kept, dropout_rate), value, -1, -2, precision) / total
    halves = tuple(as_bits(x) for x in (query, key, value, weights, mixed.astype(precision.compute), slope))
    return mixed, (halves, total, kept, like_bias, like)


def _mix_backward(dropout_rate, cap, precision, residuals, cotangent):
    halves, total, kept, like_bias, like = residuals
    query, key, value, weights, mixed, slope = (from_bits(x, precision.compute) for x in halves)
    per_query = jnp.sum(cotangent * mixed.astype(cotangent.dtype), axis=-1, keepdims=True) / total
    cotangent = (cotangent / total).astype(precision.compute)
    d_value = _leading_product(_dropped(weights, kept, dropout_rate), cotangent, precision)
    d_weights = _dropped(_product(cotangent, value, -1, -1, precision), kept, dropout_rate)
    d_scores = weights.astype(precision.accumulate) * (d_weights - per_query)
    d_bias = None if like_bias is None else d_scores.astype(like_bias.dtype)
    if slope is not None:
        d_scores = d_scores * slope.astype(precision.accumulate)
    d_scores = d_scores.astype(precision.compute)
    d_query = _product(d_scores, key, -1, -2, precision)
    d_key = _leading_product(d_scores, query, precision)
    gradients = (d_query, d_key, d_value)
    return (*(d.astype(x.dtype) for d, x in zip(gradients, like, strict=True)), d_bias, None, None)


_mix.defvjp(_mix_forward, _mix_backward)


def _dropped(x: jax.Array, kept: jax.Array | None, rate: float) -> jax.Array:
    return x if kept is None else jnp.where(kept, x / (1.0 - rate), 0.0)


def _product(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int, precision: Precision) -> jax.Array:
    """Product of matrices with equal leading axes, contracted over the given one of each."""
    leading = tuple(range(a.ndim - 2))
    contracted = ((a.ndim + axis_a,), (b.ndim + axis_b,))
    return jax.lax.dot_general(a, b, (contracted, (leading, leading)), preferred_element_type=precision.accumulate)


def _leading_product(a: jax.Array, b: jax.Array, precision: Precision) -> jax.Array:
    """`aᵀ b` for [..., L, T] and [..., L, K]; the pad keeps XLA's CPU fast path, see `dense.weight_gradient`."""
    if jax.default_backend() != "cpu" or precision.compute != jnp.bfloat16:
        return _product(a, b, -2, -2, precision)
    none = [(0, 0)] * (a.ndim - 1)
    flipped = jnp.pad(jnp.swapaxes(a, -1, -2), [*none, (0, 1)])
    return _product(flipped, jnp.pad(b, [*none[:-1], (0, 1), (0, 0)]), -1, -2, precision)


def after_prefix(params: dict[str, Any], key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values behind the trained ones of a layer's `prefix`, if it has one (prefix tuning).

    Args:
        params: parameters of an attention layer; `prefix` holds `key` and `value` float[T, H·K].
        key, value: float[B, L, H, K].

    Returns:
        Two float[B, T + L, H, K].
    """
    if "prefix" not in params:
        return key, value

    def behind(name: str, x: jax.Array) -> jax.Array:
        trained = params["prefix"][name].astype(x.dtype).reshape(-1, *x.shape[2:])
        return jnp.concatenate([jnp.broadcast_to(trained[None], (x.shape[0], *trained.shape)), x], axis=1)

    return behind("key", key), behind("value", value)


def self_attention(
    params: dict[str, Any],
    x: jax.Array,
    mask: jax.Array | None,
    *,
    heads: int,
    precision: Precision,
    score_bias: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Self-attention with its four projections.

    Args:
        params: a tree of `attention_spec`, perhaps with a `prefix`, see `after_prefix`.
        x: float[B, L, D].
        mask: as in `attend`.
        heads: number of heads H; the width of the projections must be a multiple of it.
        score_bias: as in `attend`.

    Returns:
        float[B, L, D] in `precision.accumulate`.
    """
    dropout = {"dropout_rate": dropout_rate, "dropout_key": dropout_key}
    return attention_with_keys(
        params, x, mask, heads=heads, precision=precision, score_bias=score_bias, **dropout
    )[0]  # fmt: skip


def attention_with_keys(
    params: dict[str, Any],
    x: jax.Array,
    mask: jax.Array | None,
    *,
    heads: int,
    precision: Precision,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """`self_attention`, and the keys float[B, L, H, K] of the tokens of x.

    Args:
        params, x, mask, heads, precision: as in `self_attention`.
        options: `score_bias`, `dropout_rate` and `dropout_key` of `attend`.
    """
    batch, length, _ = x.shape
    x = x.astype(precision.compute)  # once: what three projections cast on their own is kept three times

    def project(name: str) -> jax.Array:
        y = dense(x, params[name]["kernel"], params[name].get("bias"), precision)
        return y.reshape(batch, length, heads, -1)

    own = project("key")
    key, value = after_prefix(params, own, project("value"))
    mixed = attend(project("query"), key, value, mask, precision, **options).reshape(batch, length, -1)
    return dense(mixed, params["output"]["kernel"], params["output"].get("bias"), precision), own
