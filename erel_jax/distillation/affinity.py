"""Affinity mimicking: in a batch of pairs, the student should find alike what the teacher finds alike.

The teacher's similarities of every query with every item, sharpened and turned into a distribution per row, are the
targets of the student's. Only similarities are compared, so the two may have embeddings of any width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from erel_jax.distillation.checks import check_student_and_teacher
from erel_jax.distillation.soft_targets import both_ways, mean_distribution, soft_cross_entropy
from erel_jax.losses.checks import check_pairs
from erel_jax.losses.similarity import unit
from erel_jax.losses.temperature import clamped_scale


def affinity_loss(
    queries: jax.Array,
    items: jax.Array,
    teacher_queries: jax.Array,
    teacher_items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    teacher_log_scale: jax.typing.ArrayLike,
    *,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean cross-entropy of the student's softmax over the batch against the teacher's, in both directions.

    Args:
        queries, items: float[B, E] of the student; row i belongs to row i. Normalized here.
        teacher_queries, teacher_items: float[B, E'] of the teacher for the same rows. Normalized here; no gradient.
        log_scale: float scalar parameter, log of the factor on the student's cosines; values above log 100 act as
            log 100.
        teacher_log_scale: the same for the teacher, its own trained value or `losses.log_scale_of(1 / 50)` as TinyCLIP
            has it; no gradient.
        axis_name: inside `shard_map`, the mesh axis over which the batch is split; None on one device and under `jit`.

    Returns:
        float32 scalar, (CE(softmax(τ' U Vᵀ), τ u vᵀ) + CE(softmax(τ' V Uᵀ), τ v uᵀ)) / 2. The least it can be is the
        mean entropy of the teacher's rows, not 0. With `axis_name` to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes or dtypes that do not fit.

    Negatives: the other pairs of the (global) batch, each as far as the teacher says so. Duplicates: share the
    teacher's probability, so copies in a batch are never punished and no group ids are needed. Gathered across devices:
    normalized queries and items of student and teacher.

    Numerics: normalization, logits and softmax are float32.

    Requirements: the more pairs, the more there is to mimic; a batch of one teaches nothing.

    Reference: TinyCLIP (Wu et al. 2023), affinity mimicking; CRD of CLIP-KD, up to the teacher's entropy, which has no
    gradient. Relation: `reinforced_loss` is this for several teachers beside the contrastive loss; `logit_loss` for
    logits of any origin; `feature_loss` compares coordinates and needs no batch.
    """
    teachers = [(teacher_queries, teacher_items, teacher_log_scale)]
    return mimicry(queries, items, teachers, log_scale, axis_name=axis_name)


def mimicry(
    queries: jax.Array,
    items: jax.Array,
    teachers: Sequence[tuple[jax.Array, jax.Array, jax.typing.ArrayLike]],
    log_scale: jax.typing.ArrayLike,
    *,
    axis_name: str | None,
) -> jax.Array:
    """`affinity_loss` against the mean distribution of (queries, items, log scale) of several teachers."""
    check_pairs(queries, items)
    logits = both_ways(clamped_scale(log_scale) * unit(queries), unit(items), axis_name)
    theirs = []
    for teacher_queries, teacher_items, teacher_log_scale in teachers:
        check_pairs(teacher_queries, teacher_items)
        check_student_and_teacher("queries", queries, teacher_queries)
        scale = clamped_scale(teacher_log_scale)
        frozen = jax.lax.stop_gradient((scale * unit(teacher_queries), unit(teacher_items)))
        theirs.append(both_ways(*frozen, axis_name))
    losses = [
        soft_cross_entropy(ours, mean_distribution(targets)) for ours, *targets in zip(logits, *theirs, strict=True)
    ]
    return 0.5 * (jnp.mean(losses[0]) + jnp.mean(losses[1]))
