"""InfoNCE with several right answers per row.

Where several pictures show one text, or a pair was drawn with its paraphrases, all of them are right. Here the other
pairs of a row's group are positives; in `symmetric_info_nce` they are only left out.
"""

import jax

from erel_jax.losses.contrast import contrastive, dense, gathered


def multi_positive_info_nce(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean over queries of the mean cross-entropy of the items of the own group.

    `loss_i = logsumexp_j(z_ij) - mean over j in the group of i (z_ij)`, so each positive competes with everything else,
    the other positives included.

    Args:
        queries, items, log_scale: as in `symmetric_info_nce`.
        group: int32[B]; pairs with equal numbers are positives of each other. A negative number is a group of its own.
        axis_name: as in `symmetric_info_nce`.

    Returns:
        float32 scalar; with `axis_name` to be averaged over the axis.

    Raises:
        ConfigError: group ids are missing, or shapes or dtypes do not fit.

    Negatives: items of other groups. Positives stay in the softmax's denominator.

    Duplicates: each copy is one more positive. With k positives the loss cannot fall below log k, so values of batches
    with different groups must not be compared.

    Gathered across devices: normalized items and pair ids.

    Numerics: float32, as `symmetric_info_nce`, which it equals in value and gradient when all groups differ.

    Reference: Khosla et al. 2020, the form with the sum outside the logarithm; UniCL (Yang et al. 2022) for pairs of
    image and text. Relation: `multi_positive_sigmoid_loss` is the same idea without a softmax.
    """
    return contrastive(
        queries,
        items,
        log_scale,
        gathered(dense, axis_name),
        group=group,
        same_group="positive",
        both=False,
        axis_name=axis_name,
    )


def symmetric_multi_positive_info_nce(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean of `multi_positive_info_nce` from queries to items and from items to queries.

    Arguments, result and errors as there. Negatives: pairs of other groups, in both directions. Duplicates: one more
    positive each. Gathered across devices: normalized items and pair ids; of the items' direction only the sums of its
    softmax. Reference: UniCL (Yang et al. 2022). Relation: `chunked_info_nce(same_group="positive")` in linear memory.
    """
    return contrastive(
        queries,
        items,
        log_scale,
        gathered(dense, axis_name),
        group=group,
        same_group="positive",
        both=True,
        axis_name=axis_name,
    )
