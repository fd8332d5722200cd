"""Bayesian personalized ranking: the next item should score higher than a sampled one."""

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import mean_over_rows
from erel_jax.losses.checks import check_mask


def bpr_loss(
    positive_scores: jax.Array,
    negative_scores: jax.Array,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean of `-log sigmoid(positive - negative)` over all comparisons.

    Args:
        positive_scores: float[B], score of each row's positive item.
        negative_scores: float[B, N], scores of the negatives sampled for the row.
        mask: bool[B, N] or None; false where there is no negative, for padding rows or an accidental hit.
        axis_name: mesh axis over which the rows are split.

    Returns:
        float32 scalar, 0 if nothing is to be compared; with `axis_name` to be averaged over the axis
        (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes that do not fit, or a mask that is not bool.

    Negatives: the given ones; nothing else of the batch. Duplicates: a negative given twice counts twice; one that is
    the positive costs log 2 and teaches nothing, mask it. Crosses devices: the number of comparisons.

    Numerics: float32, stable for large differences.

    Reference: Rendle et al. 2009; their regularization is the optimizer's weight decay here. Relation:
    `sampled_softmax` lets the negatives compete with each other; with N = 1 and no correction it is the same loss.
    """
    if jnp.ndim(positive_scores) != 1 or jnp.ndim(negative_scores) != 2:
        raise ConfigError(
            f"got scores of shapes {jnp.shape(positive_scores)} and {jnp.shape(negative_scores)}, expected [B], [B, N]."
        )
    shape = jnp.shape(negative_scores)
    if shape[0] != jnp.shape(positive_scores)[0] or (mask is not None and jnp.shape(mask) != shape):
        got = None if mask is None else jnp.shape(mask)
        raise ConfigError(
            f"negative_scores are {shape} and mask {got}, expected [{jnp.shape(positive_scores)[0]}, N] both."
        )
    check_mask(mask)
    lead = positive_scores.astype(jnp.float32)[:, None] - negative_scores.astype(jnp.float32)
    counted = jnp.ones(shape, bool) if mask is None else mask
    # Before the softplus too: where NaN stands for no negative, its slope would be NaN times 0.
    lead = jnp.where(counted, lead, 0.0)
    return mean_over_rows(jax.nn.softplus(-lead), counted, axis_name)
