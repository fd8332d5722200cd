"""Listwise distillation: a student that ranks candidate lists as a costlier model does.

The teacher is anything that scores a query's candidates: a cross-encoder, late interaction, an ensemble.
"""

import jax
import jax.numpy as jnp

from erel_jax.distillation.checks import check_scores
from erel_jax.losses.across_devices import mean_over_rows
from erel_jax.losses.checks import check_temperature
from erel_jax.losses.similarity import EXCLUDED


def listwise_distillation_loss(
    scores: jax.Array,
    teacher_scores: jax.Array,
    *,
    mask: jax.Array | None = None,
    temperature: float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean cross-entropy of the softmax of the student's scores of a list against that of the teacher's.

    Args:
        scores: float[B, T], the student's score of each candidate of each query, sharpened as it is used.
        teacher_scores: float[B, T], the teacher's scores of the same candidates; no gradient.
        mask: bool[B, T] or None; false where a list has no candidate.
        temperature: of the teacher's scores; below 1 sharpens the target towards its first choice.
        axis_name: mesh axis over which the lists are split.

    Returns:
        float32 scalar, the mean over lists with at least two candidates; 0 if there is none. The least it can be is
        the targets' entropy. With `axis_name` to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: the temperature is not positive, or shapes do not fit.

    Negatives: the other candidates of the own list, each as far as the teacher says so. Duplicates: a candidate listed
    twice takes its share twice, in the target too. Crosses devices: the number of lists that count.

    Numerics: float32.

    Reference: ListNet (Cao et al. 2007) with a model's scores for judgments, as in RocketQAv2 (Ren et al. 2021).
    Relation: `losses.listnet_loss` learns from judged relevance and leaves out lists without a relevant candidate;
    `logit_loss` softens both sides and is 0 at its best.
    """
    check_temperature(temperature)
    check_scores(scores, teacher_scores, mask)
    real = jnp.ones(jnp.shape(scores), bool) if mask is None else mask
    counted = jnp.sum(real, axis=1) > 1
    # Scores of a list that does not count must not reach the softmax: NaN there would be a NaN slope.
    real = real & counted[:, None]
    theirs = jax.lax.stop_gradient(teacher_scores.astype(jnp.float32)) / temperature
    target = jax.nn.softmax(jnp.where(real, theirs, EXCLUDED), axis=1)
    log_probs = jax.nn.log_softmax(jnp.where(real, scores.astype(jnp.float32), EXCLUDED), axis=1)
    losses = -jnp.sum(jnp.where(real, target * log_probs, 0.0), axis=1)
    return mean_over_rows(losses, counted, axis_name)
