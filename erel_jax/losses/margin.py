"""The margin loss of visual-semantic embeddings: right pairs must beat wrong ones by a margin."""

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import gather
from erel_jax.losses.checks import check_group, check_pairs, is_positive
from erel_jax.losses.pair_ids import is_same_group, pair_ids
from erel_jax.losses.similarity import EXCLUDED, products, unit


def margin_loss(
    queries: jax.Array,
    items: jax.Array,
    *,
    margin: float = 0.2,
    hardest: bool = False,
    group: jax.typing.ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean over pairs of the hinges `max(0, margin - cos_ii + cos_ij)`, both directions averaged.

    Args:
        queries: float[B, E]; row i belongs to row i of `items`. Normalized here.
        items: float[B, E]. Normalized here.
        margin: by how much the own cosine must exceed the others.
        hardest: take the most similar negative of each row instead of the sum over all.
        group: int32[B] or None; other pairs of the own group are left out. None declares all different.
        axis_name: mesh axis over which the batch is split, inside `shard_map` or `pmap`.

    Returns:
        float32 scalar; with `axis_name` to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: the margin is not positive, or shapes or dtypes do not fit.

    Negatives: every pair of another group in the (global) batch, in both directions. A row without one costs 0.

    Duplicates: left out within a group; without group ids a copy costs the whole margin.

    Gathered across devices: normalized queries, items and pair ids.

    Numerics: float32. Without `hardest` the value grows with the batch; with it the gradient reads one negative per
    row, which is unstable in the first steps of a model trained from scratch.

    Reference: Kiros et al. 2014; the hardest negative from VSE++ (Faghri et al. 2018). Relation: `symmetric_info_nce`
    weighs all negatives smoothly; `semi_hard_triplet_loss` avoids the very hardest.
    """
    if not is_positive(margin):
        raise ConfigError(f"margin is {margin!r}, expected a finite number above 0, for example 0.2.")
    check_pairs(queries, items)
    check_group(group, jnp.shape(queries)[0])
    queries, items = unit(queries), unit(items)
    ids = pair_ids(queries.shape[0], group, axis_name)
    positive = jnp.sum(queries * items, axis=1)
    total = jnp.zeros((), jnp.float32)
    for rows, columns in ((queries, items), (items, queries)):
        columns, column_ids = gather((columns, ids), axis_name)
        scores = jnp.where(is_same_group(ids, column_ids), EXCLUDED, products(rows, columns))
        if hardest:
            hinges = jax.nn.relu(margin - positive + jnp.max(scores, axis=1))
        else:
            hinges = jnp.sum(jax.nn.relu(margin - positive[:, None] + scores), axis=1)
        total = total + jnp.mean(hinges)
    return 0.5 * total
