"""The loss of dataset reinforcement: pairs as they are labeled, and several teachers' opinion of the whole batch."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.distillation.affinity import mimicry
from erel_jax.errors import ConfigError
from erel_jax.losses.info_nce import symmetric_info_nce


def reinforced_loss(
    queries: jax.Array,
    items: jax.Array,
    teacher_queries: Sequence[jax.Array],
    teacher_items: Sequence[jax.Array],
    log_scale: jax.typing.ArrayLike,
    teacher_log_scales: Sequence[jax.typing.ArrayLike],
    *,
    share: float = 0.75,
    group: jax.typing.ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """(1 - λ) · contrastive loss + λ · cross-entropy against the mean distribution of the teachers.

    Args:
        queries, items: float[B, E] of the student; row i belongs to row i. Normalized here.
        teacher_queries, teacher_items: one float[B, E'] per teacher, of any width, for the same rows (with stored
            embeddings: of the same augmented copy). Normalized here; no gradient.
        log_scale: float scalar parameter, log of the factor on the student's cosines.
        teacher_log_scales: one float scalar per teacher, each its own; above log 100 they act as log 100.
        share: λ in [0, 1], the teachers' share; MobileCLIP has 1 for its small variants and 0.75 for the larger.
        group: int32[B] or None, for the contrastive part, see `losses.symmetric_info_nce`.
        axis_name: inside `shard_map`, the mesh axis over which the batch is split; None on one device and under `jit`.

    Returns:
        float32 scalar. With `axis_name` to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: no teacher, teachers of different number on the two sides, a share outside [0, 1], shapes or dtypes
            that do not fit.

    Negatives: the other pairs of the (global) batch; for the second part as far as the teachers say so. Duplicates: the
    contrastive part leaves out the group; the other has the teachers' word. Gathered across devices: normalized queries
    and items of the student and of every teacher, the group ids.

    Numerics: float32. Teachers are averaged after their softmaxes, so that a sharp one does not drown the others.

    With synthetic captions, call it once with the real and once with the synthetic texts, and add.

    Reference: MobileCLIP (Vasu et al. 2024). Relation: with one teacher and a share of 1 it is `affinity_loss`, with a
    share of 0 `losses.symmetric_info_nce`.
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"share is {share}, expected 0 (no teacher) to 1 (teachers alone).")
    counts = tuple(_count(part) for part in (teacher_queries, teacher_items, teacher_log_scales))
    if len(set(counts)) > 1 or 0 in counts:
        raise ConfigError(
            f"got queries of {counts[0]} teachers, items of {counts[1]} and log scales of {counts[2]}, expected the "
            "same number of each, at least one; pass sequences also for one teacher."
        )
    teachers = list(zip(teacher_queries, teacher_items, teacher_log_scales, strict=True))
    distilled = mimicry(queries, items, teachers, log_scale, axis_name=axis_name)
    if share == 1.0:
        return distilled
    contrast = symmetric_info_nce(queries, items, log_scale, group=group, axis_name=axis_name)
    return (1.0 - share) * contrast + share * distilled


def _count(part: Any) -> int:
    """Length of a sequence, 0 for what is none."""
    return len(part) if isinstance(part, Sequence) or jnp.ndim(part) else 0
