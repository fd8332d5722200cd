"""What a batch of student and teacher values must look like before a distillation loss may learn from it.

All checks are static: they run while a loss is traced and cost nothing afterwards. Values that are not finite cannot
raise inside a compiled program; they give a NaN loss, which `training.train_step` skips and counts, and
`losses.check_batch` finds them on the host.
"""

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.checks import check_embeddings, check_mask


def check_student_and_teacher(
    name: str, student: jax.typing.ArrayLike, teacher: jax.typing.ArrayLike, *, same_width: bool = False
) -> None:
    """Raises ConfigError unless both are float[B, E] of the same rows.

    Args:
        name: what the rows are, such as "queries", for messages.
        student: float[B, E].
        teacher: float[B, E'].
        same_width: whether E' must be E.
    """
    check_embeddings(f"{name} of the student", student)
    check_embeddings(f"{name} of the teacher", teacher)
    ours, theirs = jnp.shape(student), jnp.shape(teacher)
    if ours[0] != theirs[0]:
        raise ConfigError(
            f"{name}: the student has {ours[0]} rows and the teacher {theirs[0]}, expected the same; row i of one "
            "belongs to row i of the other."
        )
    if same_width and ours[1] != theirs[1]:
        raise ConfigError(
            f"{name}: the student has width {ours[1]} and the teacher {theirs[1]}; project one of them, or take a "
            "loss that works across widths (affinity_loss, relational_distance_loss, relational_angle_loss)."
        )


def check_scores(
    scores: jax.typing.ArrayLike, teacher_scores: jax.typing.ArrayLike, mask: jax.typing.ArrayLike | None
) -> None:
    """Raises ConfigError unless both are float[B, N] with B and N above 0, and the mask is bool[B, N] or None."""
    shape, theirs = jnp.shape(scores), jnp.shape(teacher_scores)
    if len(shape) != 2 or 0 in shape or theirs != shape or (mask is not None and jnp.shape(mask) != shape):
        got = None if mask is None else jnp.shape(mask)
        raise ConfigError(
            f"got scores {shape}, teacher scores {theirs} and mask {got}, expected the same [B, N] with at least one "
            "row and one candidate."
        )
    for name, values in (("scores", scores), ("teacher scores", teacher_scores)):
        if not jnp.issubdtype(jnp.result_type(values), jnp.floating):
            raise ConfigError(f"{name} are {jnp.result_type(values)}, expected floating point values.")
    check_mask(mask)
