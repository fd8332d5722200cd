"""Feature distillation: the student's embedding of a row should be the teacher's.

The simplest of the distillation losses, and by CLIP-KD's ablation most of what the others gain together. It looks at
one row at a time, so it needs no large batch, and the teacher's embeddings can be stored once.
"""

import jax
import jax.numpy as jnp

from erel_jax.distillation.checks import check_student_and_teacher
from erel_jax.errors import ConfigError
from erel_jax.losses.similarity import products, unit

FEATURE_WEIGHT = 2000.0
"""Weight beside a contrastive loss in CLIP-KD; large because the mean is over all dimensions of unit vectors."""


def feature_loss(
    student: jax.Array,
    teacher: jax.Array,
    *,
    projection: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean squared difference of the normalized embeddings of student and teacher, over rows and dimensions.

    Args:
        student: float[B, E], of one modality. Normalized here, after the projection.
        teacher: float[B, E'], of the same rows. Normalized here; receives no gradient.
        projection: float[E, E'], a learned linear map from the student's space to the teacher's; needed where the
            widths differ. It is thrown away after training.
        axis_name: mesh axis over which rows are split; changes nothing, since nothing crosses devices.

    Returns:
        float32 scalar in [0, 4 / E']: it is 2 (1 - mean cosine) / E'. With `axis_name` to be averaged over the axis
        (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes or dtypes that do not fit.

    Negatives: none. Duplicates: count twice. Crosses devices: nothing.

    Numerics: float32. A zero row of the student has no direction: its cosine is 0 and its gradient finite.

    Weight: add the losses of both modalities and multiply by about `FEATURE_WEIGHT`.

    Reference: CLIP-KD (Yang et al. 2024), FD. Relation: `affinity_loss` asks for the teacher's similarities and not its
    coordinates; `relational_distance_loss` needs no projection between widths.
    """
    del axis_name
    if projection is not None:
        student = _projected(student, teacher, projection)
    check_student_and_teacher("embeddings", student, teacher, same_width=True)
    return jnp.mean(jnp.square(unit(student) - jax.lax.stop_gradient(unit(teacher))))


def _projected(student: jax.Array, teacher: jax.Array, projection: jax.Array) -> jax.Array:
    check_student_and_teacher("embeddings", student, teacher)
    expected = (jnp.shape(student)[1], jnp.shape(teacher)[1])
    if jnp.shape(projection) != expected or not jnp.issubdtype(jnp.result_type(projection), jnp.floating):
        got = f"{jnp.result_type(projection)}{list(jnp.shape(projection))}"
        raise ConfigError(
            f"projection is {got}, expected float{list(expected)}, from the student's width to the other."
        )
    return products(student.astype(jnp.float32), projection.astype(jnp.float32).T)
