"""Triplet losses: an anchor must be nearer to its positive than to a negative, by a margin."""

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import gather, mean_over_rows
from erel_jax.losses.checks import check_embeddings, check_group, check_pairs, is_positive
from erel_jax.losses.pair_ids import is_same_group, pair_ids
from erel_jax.losses.similarity import products, unit


def triplet_loss(
    anchors: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float = 0.2,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean of `max(0, margin - cos(anchor, positive) + cos(anchor, negative))` over given triples.

    Args:
        anchors, positives, negatives: float[B, E] each, row by row. Normalized here.
        margin: in units of cosine; a margin m on squared Euclidean distances of unit vectors is m / 2 here.
        axis_name: mesh axis over which the rows are split.

    Returns:
        float32 scalar; with `axis_name` to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: the margin is not positive, or shapes or dtypes do not fit.

    Negatives: the given one of each row, nothing else of the batch. Duplicates: whoever mined the triples answers for
    them; a copy of the positive as negative costs the margin. Crosses devices: nothing.

    Reference: Schroff et al. 2015 (FaceNet). Relation: `semi_hard_triplet_loss` chooses the negatives itself;
    `bpr_loss` is the smooth form without a margin.
    """
    _check_margin(margin)
    check_pairs(anchors, positives)
    check_embeddings("negatives", negatives)
    if jnp.shape(negatives) != jnp.shape(anchors):
        raise ConfigError(f"negatives have shape {jnp.shape(negatives)}, expected {jnp.shape(anchors)}, as anchors.")
    anchors, positives, negatives = unit(anchors), unit(positives), unit(negatives)
    nearer = jnp.sum(anchors * (negatives - positives), axis=1)
    return mean_over_rows(jax.nn.relu(margin + nearer), jnp.ones_like(nearer), axis_name)


def semi_hard_triplet_loss(
    queries: jax.Array,
    items: jax.Array,
    *,
    margin: float = 0.2,
    group: jax.typing.ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Triplet loss of each query with its own item and the semi-hard negative among the batch's items.

    The semi-hard negative is the most similar item that is less similar than the own one. Where all items of other
    groups are more similar than the own one, it is the least similar of them.

    Args:
        queries: float[B, E]; row i belongs to row i of `items`. Normalized here.
        items: float[B, E]. Normalized here.
        margin: in units of cosine; half of a margin on squared Euclidean distances.
        group: int32[B] or None; items of the own group are no negatives. None declares all different.
        axis_name: mesh axis over which the batch is split.

    Returns:
        float32 scalar, the mean over queries that have a negative; 0 if none has one. With `axis_name` to be averaged
        over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: the margin is not positive, or shapes or dtypes do not fit.

    Negatives: one per query, chosen from the items of the (global) batch. For the other direction swap the arguments.

    Duplicates: left out within a group; without group ids a copy of the own item is as similar as it, so not chosen
    while a less similar item exists.

    Gathered across devices: normalized items and pair ids.

    Numerics: float32; no gradient flows through the choice.

    Reference: Schroff et al. 2015 (FaceNet), section 3.2. Relation: `margin_loss(hardest=True)` takes the hardest
    negative, which may be a wrongly labeled one.
    """
    _check_margin(margin)
    check_pairs(queries, items)
    check_group(group, jnp.shape(queries)[0])
    rows, columns = unit(queries), unit(items)
    ids = pair_ids(rows.shape[0], group, axis_name)
    all_columns, all_ids = gather((columns, ids), axis_name)
    scores, positive = products(rows, all_columns), jnp.sum(rows * columns, axis=1)
    negative = jnp.logical_not(is_same_group(ids, all_ids))
    farther = negative & (scores < positive[:, None])
    semi_hard = jnp.max(jnp.where(farther, scores, -2.0), axis=1)
    easiest = jnp.min(jnp.where(negative, scores, 2.0), axis=1)
    chosen = jnp.where(jnp.any(farther, axis=1), semi_hard, easiest)
    return mean_over_rows(jax.nn.relu(margin - positive + chosen), jnp.any(negative, axis=1), axis_name)


def _check_margin(margin: float) -> None:
    if not is_positive(margin):
        raise ConfigError(f"margin is {margin!r}, expected a finite number above 0, for example 0.2.")
