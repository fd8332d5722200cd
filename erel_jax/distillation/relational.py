"""Relational distillation: the shape of a batch in the teacher's space should be its shape in the student's.

Distances between rows, and angles at a row between two others, do not depend on the width of the space, on how it is
turned, or, after division by the mean distance, on its scale. So student and teacher may be of different kinds, and no
projection is learned.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from erel_jax.distillation.checks import check_student_and_teacher
from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import gather, own_part, total
from erel_jax.losses.similarity import products, unit

_SMALLEST = 1e-6
"""Squared distance of unit vectors below which two rows are the same; it is a few times the rounding error."""


def relational_distance_loss(student: jax.Array, teacher: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Mean Huber loss between the pairwise distances of student and teacher, each over its own mean.

    Args:
        student: float[B, E], of one modality, or of several one after another. Normalized here.
        teacher: float[B, E'], of the same rows. Normalized here; receives no gradient.
        axis_name: inside `shard_map`, the mesh axis over which rows are split; None on one device and under `jit`.

    Returns:
        float32 scalar, the mean over ordered pairs of different rows of huber(d_ij / mean d - D_ij / mean D), with
        huber(x) = x² / 2 up to 1 and |x| - 1/2 beyond. With `axis_name` to be averaged over it (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes or dtypes that do not fit, or fewer than two rows in the (global) batch.

    Negatives: none; every pair of rows has a target. Duplicates: copies have distance 0 in both spaces and agree.
    Gathered across devices: normalized rows of student and teacher; the sum of the student's distances.

    Numerics: float32, distances from dot products of centered rows. Rows closer than 1e-3 count as equal, without
    gradient.

    Reference: Park et al. 2019, RKD-D, weight 1 beside the task; there rows are not normalized, here they are, because
    retrieval compares cosines. Relation: `relational_angle_loss` looks at triples; `affinity_loss` at similarities of
    queries with items, sharpened.
    """
    check_student_and_teacher("embeddings", student, teacher)
    ours = _shape_of(student, axis_name)
    theirs = jax.lax.stop_gradient(_shape_of(teacher, axis_name))
    rows, count = ours.distances.shape
    _check_count(count, 2, "a pair")

    def scaled(distances: jax.Array) -> jax.Array:
        devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        mean = total(jnp.sum(distances), axis_name) / (devices * rows * (count - 1))
        return distances / jnp.maximum(mean, 1e-6)

    # A row's distance to itself is 0 in both spaces and adds nothing to the sum.
    return jnp.sum(_huber(scaled(ours.distances) - scaled(theirs.distances))) / (rows * (count - 1))


def relational_angle_loss(student: jax.Array, teacher: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Mean Huber loss between the cosines of student and teacher of all angles within the batch.

    Args:
        student: float[B, E], of one modality, or of several one after another. Normalized here.
        teacher: float[B, E'], of the same rows. Normalized here; receives no gradient.
        axis_name: inside `shard_map`, the mesh axis over which rows are split; None on one device and under `jit`.

    Returns:
        float32 scalar, the mean over ordered triples of different rows i, j, k of huber(cos ijk - COS ijk), with the
        angle at row j. With `axis_name` to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes or dtypes that do not fit, or fewer than three rows in the (global) batch.

    Negatives: none; every triple of rows has a target. Duplicates: two equal rows have no direction between them, their
    angles count as right ones in either space. Gathered across devices: normalized rows of student and teacher.

    Numerics: float32. One row's angles exist at a time, in the backward pass too: memory is that of a few matrices of
    the batch with itself, operations grow with its cube and not with the width.

    Reference: Park et al. 2019, RKD-A, weight 2 beside the task, on normalized rows. Relation: as
    `relational_distance_loss`, of triples.
    """
    check_student_and_teacher("embeddings", student, teacher)
    ours = _shape_of(student, axis_name)
    theirs = jax.lax.stop_gradient(_shape_of(teacher, axis_name))
    count = ours.distances.shape[1]
    _check_count(count, 3, "an angle")
    places = jnp.arange(count)

    def at(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        place, distances, their_distances = row
        other = places != place
        counted = other[:, None] & other[None, :] & jnp.logical_not(jnp.eye(count, dtype=bool))
        apart = _cosines_at(place, ours.gram, distances) - _cosines_at(place, theirs.gram, their_distances)
        return jnp.sum(jnp.where(counted, _huber(apart), 0.0))

    found = jax.lax.map(jax.checkpoint(at), (ours.own, ours.distances, theirs.distances))
    return jnp.mean(found) / ((count - 1) * (count - 2))


class _Shape(NamedTuple):
    """How this device's B rows lie among all C.

    Attributes:
        own: int32[B], their places among all rows.
        gram: float32[C, C], dot products of all rows, seen from their mean.
        distances: float32[B, C], from the own rows to all.
    """

    own: jax.Array
    gram: jax.Array
    distances: jax.Array


def _shape_of(embeddings: jax.Array, axis_name: str | None) -> _Shape:
    batch = jnp.shape(embeddings)[0]
    rows = gather(unit(embeddings), axis_name)
    # Differences do not depend on the origin; around the mean, products lose the fewest digits.
    rows = rows - jax.lax.stop_gradient(jnp.mean(rows, axis=0, keepdims=True))
    gram = products(rows, rows)
    lengths = jnp.diagonal(gram)
    squared = own_part(lengths[:, None] + lengths[None, :] - 2.0 * gram, batch, axis_name)
    apart = squared > _SMALLEST
    distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), jnp.where(jnp.isnan(squared), squared, 0.0))
    own = own_part(jnp.arange(rows.shape[0], dtype=jnp.int32), batch, axis_name)
    return _Shape(own, gram, distances)


def _cosines_at(place: jax.Array, gram: jax.Array, distances: jax.Array) -> jax.Array:
    """float32[C, C]: cosine of the angle at row `place` between every two rows; 0 where a row has no direction."""
    row = gram[place]
    between = gram - row[:, None] - row[None, :] + row[place]
    lengths = distances[:, None] * distances[None, :]
    # NaN is no direction either, but must not be hidden.
    known = jnp.logical_not(lengths == 0)
    return jnp.where(known, between / jnp.where(known, lengths, 1.0), 0.0)


def _huber(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    return jnp.where(size <= 1.0, 0.5 * x * x, size - 0.5)


def _check_count(count: int, least: int, what: str) -> None:
    if count < least:
        raise ConfigError(f"got a batch of {count} rows, expected at least {least}: {what} needs as many.")
