"""Training with pairs that may be mismatched: each pair counts as a match to the degree that it looks like one.

A pair with clean probability w gives w of its target to its own item and the rest to what a teacher, usually a moving
average of the model, finds most alike. With w = 1 everywhere this is plain InfoNCE.
"""

import math

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.checks import check_pairs
from erel_jax.losses.similarity import products, unit
from erel_jax.losses.temperature import clamped_scale, sharpened


def soft_targets(weights: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Targets `w_i onehot_i + (1 - w_i) softmax(teacher row i)`.

    Args:
        weights: float[B] in 0..1, probability that a pair is clean.
        teacher_logits: float[B, B], sharpened similarities of the teacher. No gradient flows into them.

    Returns:
        float32[B, B], rows sum to 1.

    Raises:
        ConfigError: shapes do not fit.
    """
    count = jnp.shape(weights)[0] if jnp.ndim(weights) else 0
    if jnp.ndim(weights) != 1 or jnp.shape(teacher_logits) != (count, count):
        raise ConfigError(
            f"weights have shape {jnp.shape(weights)} and teacher logits {jnp.shape(teacher_logits)}, expected [B] and "
            "[B, B]."
        )
    own = jnp.asarray(weights).astype(jnp.float32)[:, None]
    beliefs = jax.nn.softmax(jax.lax.stop_gradient(jnp.asarray(teacher_logits).astype(jnp.float32)), axis=1)
    return jax.lax.stop_gradient(own * jnp.eye(count, dtype=jnp.float32) + (1 - own) * beliefs)


def soft_correspondence_loss(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    weights: jax.Array,
    teacher_logits: jax.Array,
) -> jax.Array:
    """Symmetric cross-entropy against `soft_targets`, rows against the teacher's rows, columns against its columns.

    Args:
        queries, items, log_scale: as in `losses.symmetric_info_nce`.
        weights: float[B], clean probability of each pair.
        teacher_logits: float[B, B], queries of the teacher against its items.

    Returns:
        float32 scalar.

    Raises:
        ConfigError: shapes or dtypes do not fit.

    Negatives: every other pair, to the degree that the teacher does not believe in it. Duplicates: the teacher gives
    copies equal shares, so they cost a clean pair nothing only through w < 1; leave them out of the batch. Gathered
    across devices: nothing; the batch is this device's. Numerics: float32.

    Reference: the softmax form of NCR's rectified labels (Huang et al. 2021). Relation: with weights of 1 it equals
    `losses.symmetric_info_nce` without groups.
    """
    check_pairs(queries, items)
    logits = products(sharpened(clamped_scale(log_scale), unit(queries)), unit(items))
    there = jnp.sum(soft_targets(weights, teacher_logits) * jax.nn.log_softmax(logits, axis=1), axis=1)
    back = jnp.sum(soft_targets(weights, teacher_logits.T) * jax.nn.log_softmax(logits.T, axis=1), axis=1)
    return -0.5 * (jnp.mean(there) + jnp.mean(back))


def rectified_labels(weights: jax.Array, predictions: jax.Array, clean: jax.Array) -> jax.Array:
    """NCR's labels for margins: `w + (1 - w) P` for pairs called clean, P for the others.

    Args:
        weights: float[B], clean probability.
        predictions: float[B] in 0..1, how well the models say the pair matches; for pairs not called clean the mean of
            both peers.
        clean: bool[B].

    Returns:
        float32[B] in 0..1.

    Raises:
        ConfigError: the three have different shapes.
    """
    shapes = [jnp.shape(values) for values in (weights, predictions, clean)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ConfigError(f"weights, predictions and clean have shapes {shapes}, expected [B] each.")
    own, believed = (jnp.asarray(value).astype(jnp.float32) for value in (weights, predictions))
    return jnp.where(clean, own + (1 - own) * believed, believed)


def soft_margin(margin: float, labels: jax.Array) -> jax.Array:
    """NCR's margin of a triplet loss, `margin (10^label - 1) / 9`: 0 for label 0 and the full margin for label 1.

    Args:
        margin: margin of a pair that certainly matches.
        labels: float[B] in 0..1.

    Returns:
        float32[B].

    Raises:
        ConfigError: the margin is not above 0 and finite.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ConfigError(f"margin is {margin}, expected a finite number above 0, for example 0.2.")
    return jnp.float32(margin) * (jnp.float32(10) ** jnp.asarray(labels).astype(jnp.float32) - 1) / 9
