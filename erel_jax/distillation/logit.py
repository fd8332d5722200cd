"""Logit distillation: the student's distribution over classes or candidates should be the teacher's."""

import jax
import jax.numpy as jnp

from erel_jax.distillation.checks import check_scores
from erel_jax.distillation.soft_targets import soft_cross_entropy
from erel_jax.losses.checks import check_temperature


def logit_loss(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: float = 1.0,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean divergence KL(softmax(teacher / T) ‖ softmax(student / T)) · T².

    Args:
        logits: float[B, N] of the student, for example a recommender's scores of the whole catalog.
        teacher_logits: float[B, N] of the teacher; no gradient.
        temperature: T, the same for both; above 1 it brings out how the teacher ranks the unlikely ones.
        axis_name: mesh axis over which rows are split; changes nothing, since nothing crosses devices.

    Returns:
        float32 scalar, 0 where the distributions agree. With `axis_name` to be averaged over the axis
        (`jax.lax.pmean`).

    Raises:
        ConfigError: the temperature is not positive, or shapes do not fit.

    Negatives: every other column, as far as the teacher says so. Duplicates: columns that are copies share what the
    teacher gives them. Crosses devices: nothing.

    Numerics: float32. The factor T² keeps gradients of one size whatever the temperature, so that the weight beside
    another loss need not change with it.

    Reference: Hinton et al. 2015. Relation: `affinity_loss` is this, up to the teacher's entropy, on a batch's
    similarities in both directions; `listwise_distillation_loss` for candidate lists of different lengths.
    """
    del axis_name
    check_temperature(temperature)
    check_scores(logits, teacher_logits, None)
    ours, theirs = logits.astype(jnp.float32) / temperature, teacher_logits.astype(jnp.float32) / temperature
    theirs = jax.lax.stop_gradient(theirs)
    target = jax.nn.softmax(theirs, axis=1)
    cross = soft_cross_entropy(ours, target) - soft_cross_entropy(theirs, target)
    return jnp.mean(cross) * temperature**2
