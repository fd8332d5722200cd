"""InfoNCE, the contrastive loss of dual encoders.

A batch holds B pairs of a query and an item. Each query must pick its own item among all items of the batch
(`info_nce`), and in the symmetric form each item its own query too (`symmetric_info_nce`). The similarity is the
cosine, sharpened by a learned scale.
"""

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import gather
from erel_jax.losses.checks import check_group, check_hard_negatives, check_pairs
from erel_jax.losses.contrast import contrastive, dense, gathered
from erel_jax.losses.pair_ids import is_own, is_same_group, pair_ids
from erel_jax.losses.similarity import EXCLUDED, products, unit
from erel_jax.losses.temperature import clamped_scale, sharpened


def symmetric_info_nce(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean of the query-to-item and the item-to-query cross-entropy of a batch of pairs.

    Args:
        queries: float[B, E]; row i belongs to row i of `items`. Normalized here.
        items: float[B, E]. Normalized here.
        log_scale: float scalar parameter, log of the factor on cosine similarities (the inverse temperature). Values
            above log 100 act as log 100 and receive no gradient; keep it unbounded in the optimizer.
        group: int32[B] or None. Pairs with equal numbers say the same thing, for example several pictures of one
            text. A negative number is a group of its own. None declares all pairs different.
        axis_name: Inside `shard_map` or `pmap`, the mesh axis over which the batch is split; None on one device and
            under plain `jit`, where a sharded batch is global anyway.

    Returns:
        float32 scalar. With `axis_name`, the mean over this device's pairs against the global batch; average the
        losses, and the gradients of replicated parameters, over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes or dtypes that do not fit.

    Negatives: every other pair of the (global) batch, in both directions.

    Duplicates: a pair of the same group is neither positive nor negative for another one; it is left out of that
    row's softmax. So the loss of a batch with copies never punishes a right answer.

    Gathered across devices: normalized items and pair ids; of the items' direction only the sums of its softmax.

    Numerics: normalization, logits and softmax are float32 whatever the inputs are; a zero vector has similarity 0 to
    everything.

    Requirements: at least two groups in the global batch; with one the loss is 0 and teaches nothing.

    Reference: CLIP (Radford et al. 2021). Relation: `chunked_info_nce` is the same loss in linear memory;
    `multi_positive_info_nce` counts the group's pairs as positives; `info_nce` is the first half, with mined negatives;
    `sigmoid_loss` judges each pair alone; `debiased_cross_entropy` corrects for popularity in recommendation.
    """
    return contrastive(
        queries,
        items,
        log_scale,
        gathered(dense, axis_name),
        group=group,
        same_group="left_out",
        both=True,
        axis_name=axis_name,
    )


def info_nce(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike | None = None,
    hard_negatives: jax.Array | None = None,
    excluded: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean cross-entropy of each query picking its own item.

    Args:
        queries: float[B, E]; row i belongs to row i of `items`. Normalized here.
        items: float[B, E]. Normalized here.
        log_scale: as in `symmetric_info_nce`.
        group: int32[B] or None; items of the query's own group are left out, as in `symmetric_info_nce`.
        hard_negatives: float[B, H, E] or None, mined wrong items of each query. Normalized here. Negatives for every
            query of the batch; those mined for another query of the own group are left out.
        excluded: bool[B, C] or None, what else to leave out of each row, see `false_negatives`. The columns are the
            items of all devices, then their hard negatives query by query. The own item always stays.
        axis_name: as in `symmetric_info_nce`.

    Returns:
        float32 scalar; with `axis_name` to be averaged over the axis. ConfigError where shapes or dtypes do not fit.

    Negatives: the other items of the (global) batch and all hard negatives. Queries are no negatives of each other.

    Duplicates: left out within a group; without group ids a copy of the own item is a negative, and the row's loss
    cannot fall below log 2.

    Gathered across devices: normalized items, hard negatives and pair ids.

    Numerics: float32, as `symmetric_info_nce`. A row whose negatives are all left out has loss 0.

    Reference: van den Oord et al. 2018; hard negatives as in DPR (Karpukhin et al. 2020). Relation: UniIR trains with
    this direction alone. `chunked_info_nce(symmetric=False)` is the same in linear memory, without mined negatives.
    """
    check_pairs(queries, items)
    check_group(group, jnp.shape(queries)[0])
    rows, columns = sharpened(clamped_scale(log_scale), unit(queries)), unit(items)
    ids = pair_ids(rows.shape[0], group, axis_name)
    candidates, all_ids = gather((columns, ids), axis_name)
    own = is_own(ids, all_ids)
    others = is_same_group(ids, all_ids) & jnp.logical_not(own)
    if hard_negatives is not None:
        check_hard_negatives(hard_negatives, *rows.shape)
        per_query = hard_negatives.shape[1]
        mined = gather(unit(hard_negatives).reshape(rows.shape[0] * per_query, rows.shape[1]), axis_name)
        candidates = jnp.concatenate([candidates, mined])
        others = jnp.concatenate([others, jnp.repeat(others, per_query, axis=1)], axis=1)
        own = jnp.concatenate([own, jnp.zeros((rows.shape[0], mined.shape[0]), bool)], axis=1)
    logits = products(rows, candidates)
    if excluded is not None:
        _check_excluded(excluded, logits)
        others = others | (excluded & jnp.logical_not(own))
    lse = jax.nn.logsumexp(jnp.where(others, EXCLUDED, logits), axis=1)
    return jnp.mean(lse - jnp.sum(rows * columns, axis=1))


def _check_excluded(excluded: jax.Array, logits: jax.Array) -> None:
    shape, dtype = jnp.shape(excluded), jnp.result_type(excluded)
    if shape != logits.shape or dtype != jnp.bool_:
        raise ConfigError(f"excluded is {dtype}{list(shape)}, expected bool{list(logits.shape)}, see false_negatives.")
