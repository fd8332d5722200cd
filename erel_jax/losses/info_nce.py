"""Symmetric InfoNCE, the contrastive loss of dual encoders.

A batch holds B pairs of a query and an item. Each query must pick its own item among all items of the batch, and each
item its own query. The similarity is the cosine, sharpened by a learned scale.
"""

import math

import jax
import jax.numpy as jnp

LOG_SCALE_LIMIT = math.log(100.0)
"""Upper bound of the learned log scale, as in CLIP: similarities are multiplied by at most 100."""

INITIAL_LOG_SCALE = math.log(1.0 / 0.07)
"""Starting value of the learned log scale, a temperature of 0.07 as in CLIP."""

_EXCLUDED = -1e9


def symmetric_info_nce(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.Array,
    *,
    group: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean of the query-to-item and the item-to-query cross-entropy of a batch of pairs.

    Args:
        queries: float[B, E]; row i belongs to row i of `items`. Normalized here.
        items: float[B, E]. Normalized here.
        log_scale: float scalar parameter, log of the factor on cosine similarities (the inverse temperature). Values
            above log 100 act as log 100 and receive no gradient; keep it unbounded in the optimizer.
        group: int32[B] or None. Pairs with equal numbers say the same thing, for example several pictures of one
            text. None declares all pairs different.
        axis_name: Inside `shard_map` or `pmap`, the mesh axis over which the batch is split; None on one device and
            under plain `jit`, where a sharded batch is global anyway.

    Returns:
        float32 scalar. With `axis_name`, the mean over this device's pairs against the global batch; average the
        losses, and the gradients of replicated parameters, over the axis (`jax.lax.pmean`).

    Negatives: every other pair of the (global) batch, in both directions.

    Duplicates: a pair of the same group is neither positive nor negative for another one; it is left out of that
    row's softmax. So the loss of a batch with copies never punishes a right answer.

    Gathered across devices: normalized queries, items and groups, with `axis_name` only.

    Numerics: normalization, logits and softmax are float32 whatever the inputs are; a zero vector has similarity 0 to
    everything.

    Requirements: at least two groups in the global batch; with one the loss is 0 and teaches nothing.

    Reference: CLIP (Radford et al. 2021). Relation: `debiased_cross_entropy` is the one-directional loss of sequence
    recommendation with a popularity correction; with several positives per row a supervised contrastive loss fits.
    """
    queries, items = _normalize(queries), _normalize(items)
    count = queries.shape[0]
    groups = jnp.arange(count) if group is None else group
    all_queries, all_items, all_groups, offset = queries, items, groups, jnp.int32(0)
    if axis_name is not None:
        shard = jax.lax.axis_index(axis_name)
        if group is None:
            groups = groups + shard * count
        all_queries, all_items, all_groups = (
            jax.lax.all_gather(part, axis_name, axis=0, tiled=True) for part in (queries, items, groups)
        )
        offset = (shard * count).astype(jnp.int32)
    scale = jnp.exp(jnp.minimum(log_scale.astype(jnp.float32), LOG_SCALE_LIMIT))
    own = jnp.arange(count, dtype=jnp.int32) + offset
    is_own = own[:, None] == jnp.arange(all_items.shape[0], dtype=jnp.int32)[None, :]
    left_out = (groups[:, None] == all_groups[None, :]) & jnp.logical_not(is_own)
    forward = _cross_entropy(scale * _similarity(queries, all_items), is_own, left_out)
    backward = _cross_entropy(scale * _similarity(items, all_queries), is_own, left_out)
    return 0.5 * (forward + backward)


def _cross_entropy(logits: jax.Array, is_own: jax.Array, left_out: jax.Array) -> jax.Array:
    positive = jnp.sum(jnp.where(is_own, logits, 0.0), axis=1)
    return jnp.mean(jax.nn.logsumexp(jnp.where(left_out, _EXCLUDED, logits), axis=1) - positive)


def _similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum("ae,be->ab", a, b, preferred_element_type=jnp.float32)


def _normalize(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    # Scaling by the largest component first keeps the sum of squares from overflowing.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide), axis=-1, keepdims=True))
    wide = wide / jnp.where(largest > 0, largest, 1.0)
    return wide * jax.lax.rsqrt(jnp.sum(wide * wide, axis=-1, keepdims=True) + 1e-12)
