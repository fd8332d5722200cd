"""Listwise ranking: the scores of a list should be distributed as its relevance judgments are."""

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import mean_over_rows
from erel_jax.losses.checks import check_mask, check_temperature
from erel_jax.losses.similarity import EXCLUDED


def listnet_loss(
    scores: jax.Array,
    relevance: jax.Array,
    *,
    mask: jax.Array | None = None,
    temperature: float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean cross-entropy between the softmax of the relevance and the softmax of the scores of each list.

    Args:
        scores: float[B, T], the model's score of each candidate of each query.
        relevance: float[B, T], judged gain of each candidate; 0 is not relevant.
        mask: bool[B, T] or None; false where a list has no candidate.
        temperature: of the relevance; below 1 sharpens the target towards the most relevant.
        axis_name: mesh axis over which the lists are split.

    Returns:
        float32 scalar, the mean over lists with at least one relevant candidate; 0 if there is none. With `axis_name`
        to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: the temperature is not positive, shapes do not fit, or the mask is not bool.

    Negatives: the other candidates of the own list, each as far as it is less relevant. Duplicates: a candidate listed
    twice takes its share twice, in the target too. Crosses devices: the number of lists that count.

    Numerics: float32. The loss of a perfect ranking is the target's entropy and not 0.

    Reference: Cao et al. 2007, ListNet with top-one probabilities. Relation: with one relevant candidate and a
    temperature near 0 it is `info_nce` over the list.
    """
    shape = jnp.shape(scores)
    if len(shape) != 2 or jnp.shape(relevance) != shape or (mask is not None and jnp.shape(mask) != shape):
        got = None if mask is None else jnp.shape(mask)
        raise ConfigError(
            f"got scores {shape}, relevance {jnp.shape(relevance)} and mask {got}, expected the same [B, T]."
        )
    check_mask(mask)
    check_temperature(temperature)
    gains = relevance.astype(jnp.float32)
    real = jnp.ones(shape, bool) if mask is None else mask
    counted = jnp.any(real & (gains > 0), axis=1)
    # Scores of a list that does not count must not reach the softmax: NaN there would be a NaN slope.
    real = real & counted[:, None]
    target = jax.nn.softmax(jnp.where(real, gains / temperature, EXCLUDED), axis=1)
    log_probs = jax.nn.log_softmax(jnp.where(real, scores.astype(jnp.float32), EXCLUDED), axis=1)
    losses = -jnp.sum(jnp.where(real, target * log_probs, 0.0), axis=1)
    return mean_over_rows(losses, counted, axis_name)
