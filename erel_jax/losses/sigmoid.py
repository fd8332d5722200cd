"""The sigmoid loss of SigLIP: every pair of a query and an item is judged alone.

Each of the B x B combinations of a batch is a yes-or-no question: do these two belong together? There is no softmax, so
no row waits for another one, and the loss needs a bias that says how rare "yes" is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import gather, varying_like
from erel_jax.losses.checks import check_group, check_pairs
from erel_jax.losses.contrast import Rule
from erel_jax.losses.pair_ids import PairIds, SameGroup, is_own, is_same_group, pair_ids
from erel_jax.losses.similarity import products, unit
from erel_jax.losses.temperature import clamped_scale, sharpened

SigmoidMeasure = Callable[[jax.Array, jax.Array, jax.Array, PairIds, PairIds, Rule], jax.Array]
"""`measure(rows, columns, bias, row_ids, column_ids, rule)` gives the summed loss of each row, float32[B]."""


def sigmoid_loss(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean over queries of the summed binary cross-entropies of all items.

    `loss = -1/B sum_ij log sigmoid(z_ij (scale cos_ij + bias))`, z_ij = 1 for the own item and -1 for others.

    Args:
        queries: float[B, E]; row i belongs to row i of `items`. Normalized here.
        items: float[B, E]. Normalized here.
        log_scale: float scalar parameter, log of the factor on cosine similarities, log 10 to begin with; bounded as in
            `symmetric_info_nce`.
        bias: float scalar parameter; -10 to begin with for batches of tens of thousands, about -log B for small ones.
        group: int32[B] or None; combinations of different pairs of one group are left out. None declares all different.
        axis_name: as in `symmetric_info_nce`.

    Returns:
        float32 scalar; with `axis_name` to be averaged over the axis.

    Raises:
        ConfigError: shapes or dtypes that do not fit.

    Negatives: every other item of the (global) batch. The loss is its own mirror image: queries and items may be
    swapped.

    Duplicates: left out within a group, neither yes nor no; without group ids a copy is a wrong "no".

    Gathered across devices: normalized items and pair ids.

    Numerics: float32. The sum is divided by B and not by B², so its value grows with the batch.

    Reference: Zhai et al. 2023 (SigLIP). Relation: `chunked_sigmoid_loss` is the same in linear memory;
    `multi_positive_sigmoid_loss` says yes to the whole group; `symmetric_info_nce` lets the items of a row compete.
    """
    return pairwise_sigmoid(
        queries, items, log_scale, bias, dense, group=group, same_group="left_out", axis_name=axis_name, gathers=True
    )


def multi_positive_sigmoid_loss(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    *,
    group: jax.typing.ArrayLike,
    axis_name: str | None = None,
) -> jax.Array:
    """`sigmoid_loss` in which all items of the query's group are right answers.

    Args:
        queries, items, log_scale, bias, axis_name: as in `sigmoid_loss`.
        group: int32[B]; pairs with equal numbers are positives of each other. A negative number is a group of its own.

    Returns:
        float32 scalar; with `axis_name` to be averaged over the axis.

    Raises:
        ConfigError: group ids are missing, or shapes or dtypes do not fit.

    Negatives: items of other groups. Duplicates: each copy is one more "yes", so large groups weigh more. Gathered
    across devices: normalized items and pair ids. Numerics: float32.

    Reference: Zhai et al. 2023; several positives per row need no change there. Relation:
    `multi_positive_info_nce` averages over a row's positives instead of adding them up.
    """
    return pairwise_sigmoid(
        queries, items, log_scale, bias, dense, group=group, same_group="positive", axis_name=axis_name, gathers=True
    )


def dense(
    rows: jax.Array, columns: jax.Array, bias: jax.Array, row_ids: PairIds, column_ids: PairIds, rule: Rule
) -> jax.Array:
    """Summed loss of each of the float32 rows [B, E] from one matrix of logits, bias float32[B]."""
    logits = products(rows, columns) + bias[:, None]
    sign, counted = signs(row_ids, column_ids, rule)
    losses = jax.nn.softplus(-sign * logits)
    return jnp.sum(losses if counted is None else jnp.where(counted, losses, 0.0), axis=1)


def signs(row_ids: PairIds, column_ids: PairIds, rule: Rule) -> tuple[jax.Array, jax.Array | None]:
    """(float32[B, C] of 1 for right answers and -1 for others, bool[B, C] of what counts or None for all)."""
    own = is_own(row_ids, column_ids)
    same = own if rule == "none" else is_same_group(row_ids, column_ids)
    right = same if rule == "positive" else own
    counted = own | jnp.logical_not(same) if rule == "left_out" else None
    return jnp.where(right, jnp.float32(1), jnp.float32(-1)), counted


def pairwise_sigmoid(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
    measure: SigmoidMeasure,
    *,
    group: jax.typing.ArrayLike | None,
    same_group: SameGroup,
    axis_name: str | None,
    gathers: bool,
) -> jax.Array:
    """The sigmoid loss from whatever measures the loss of each row; `gathers` items first, where `measure` does not."""
    check_pairs(queries, items)
    check_group(group, jnp.shape(queries)[0], required=same_group == "positive")
    if same_group not in ("left_out", "positive"):
        raise ConfigError(f"same_group is {same_group!r}, expected 'left_out' or 'positive'.")
    if jnp.shape(bias) != ():
        raise ConfigError(f"bias has shape {jnp.shape(bias)}, expected a scalar.")
    rows, columns = sharpened(clamped_scale(log_scale), unit(queries)), unit(items)
    ids = pair_ids(rows.shape[0], group, axis_name)
    column_ids = ids
    if gathers:
        columns, column_ids = gather((columns, ids), axis_name)
    biases = jnp.broadcast_to(varying_like(jnp.asarray(bias, jnp.float32), rows), (rows.shape[0],))
    return jnp.mean(measure(rows, columns, biases, ids, column_ids, "none" if group is None else same_group))
