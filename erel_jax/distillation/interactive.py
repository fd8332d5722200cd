"""Interactive contrastive learning: the student's embedding of one side searches among the teacher's of the other."""

import jax

from erel_jax.distillation.checks import check_student_and_teacher
from erel_jax.losses.checks import check_pairs
from erel_jax.losses.contrast import contrastive, dense, gathered


def interactive_contrastive_loss(
    queries: jax.Array,
    items: jax.Array,
    teacher_queries: jax.Array,
    teacher_items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean of two InfoNCE losses: student queries among teacher items, student items among teacher queries.

    Args:
        queries, items: float[B, E] of the student; row i belongs to row i. Normalized here.
        teacher_queries, teacher_items: float[B, E] of the teacher for the same rows, of the student's width; project
            the student where it is another. Normalized here; no gradient.
        log_scale: float scalar parameter, log of the factor on the cosines between student and teacher. One of its own
            beside that of the task, see `losses.symmetric_info_nce`.
        group: int32[B] or None. Pairs with equal numbers say the same thing. None declares all pairs different.
        axis_name: inside `shard_map`, the mesh axis over which the batch is split; None on one device and under `jit`.

    Returns:
        float32 scalar, (CE(τ u Vᵀ, I) + CE(τ v Uᵀ, I)) / 2. With `axis_name` to be averaged over the axis
        (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes or dtypes that do not fit.

    Negatives: the teacher's embeddings of every other pair of the (global) batch. Duplicates: a pair of the same group
    is left out of the row's softmax. Gathered across devices: the teacher's normalized embeddings and the group ids.

    Numerics: normalization, logits and softmax are float32.

    Requirements: at least two groups in the global batch.

    Reference: CLIP-KD (Yang et al. 2024), ICL, with weight 1; the factor is exp(log_scale) as the paper means it.
    Relation: `losses.info_nce` with the teacher on the other side; `affinity_loss` has the teacher's distribution as
    target, this one the pairs themselves; `feature_loss` pulls to the teacher without looking at other rows.
    """
    check_pairs(queries, items)
    check_pairs(teacher_queries, teacher_items)
    check_student_and_teacher("queries", queries, teacher_queries, same_width=True)

    def one_way(ours: jax.Array, theirs: jax.Array) -> jax.Array:
        return contrastive(
            ours,
            jax.lax.stop_gradient(theirs),
            log_scale,
            gathered(dense, axis_name),
            group=group,
            same_group="left_out",
            both=False,
            axis_name=axis_name,
        )

    return 0.5 * (one_way(queries, teacher_items) + one_way(items, teacher_queries))
