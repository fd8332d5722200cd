"""What contrastive losses have in common: the softmax statistics of a batch of pairs.

Each row (query) has the logsumexp of its logits over all columns (items), and each column that over all rows; a loss
is their mean minus the logits of the positives. How the logits are formed, all at once here or block by block in
`chunked_contrast`, changes neither value nor gradient.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import gather, logsumexp_over_devices, own_part, total
from erel_jax.losses.checks import check_group, check_pairs
from erel_jax.losses.pair_ids import PairIds, SameGroup, is_own, is_same_group, pair_ids
from erel_jax.losses.similarity import EXCLUDED, products, unit
from erel_jax.losses.temperature import clamped_scale, sharpened

Rule = Literal["none", "left_out", "positive"]
"""How group ids act on a block of logits; "none" where there are none."""


class Statistics(NamedTuple):
    """Sums over a batch's logits, all float32.

    Attributes:
        row_lse: [B], logsumexp of each row over the columns that are not left out.
        row_positive: [B], sum of the logits of the row's group; None unless the rule is "positive".
        row_count: [B], number of pairs in the row's group; None unless the rule is "positive".
        column_lse: [C], logsumexp of each column; None for one-way losses.
        column_positive: [C], as `row_positive`, for columns; None for one-way losses.
    """

    row_lse: jax.Array
    row_positive: jax.Array | None
    row_count: jax.Array | None
    column_lse: jax.Array | None
    column_positive: jax.Array | None


Measure = Callable[[jax.Array, jax.Array, PairIds, PairIds, Rule, bool], Statistics]
"""`measure(rows, columns, row_ids, column_ids, rule, both)`; `both` asks for the columns' statistics too."""


def dense(
    rows: jax.Array, columns: jax.Array, row_ids: PairIds, column_ids: PairIds, rule: Rule, both: bool
) -> Statistics:
    """Statistics of float32 rows [B, E] against columns [C, E] from one matrix of logits."""
    logits = products(rows, columns)
    row_positive = row_count = column_positive = None
    if rule == "positive":
        positive = is_same_group(row_ids, column_ids)
        matched = jnp.where(positive, logits, 0.0)
        row_positive, row_count = jnp.sum(matched, axis=1), jnp.sum(positive.astype(jnp.float32), axis=1)
        column_positive = jnp.sum(matched, axis=0) if both else None
    logits = left_out(logits, row_ids, column_ids, rule)
    column_lse = jax.nn.logsumexp(logits, axis=0) if both else None
    return Statistics(jax.nn.logsumexp(logits, axis=1), row_positive, row_count, column_lse, column_positive)


def left_out(logits: jax.Array, row_ids: PairIds, column_ids: PairIds, rule: Rule) -> jax.Array:
    """Logits with the group's other pairs at `EXCLUDED` where the rule leaves them out."""
    if rule != "left_out":
        return logits
    others = is_same_group(row_ids, column_ids) & jnp.logical_not(is_own(row_ids, column_ids))
    return jnp.where(others, EXCLUDED, logits)


def gathered(measure: Measure, axis_name: str | None) -> Measure:
    """The same statistics of this device's pairs against those of all devices, by gathering the columns."""
    if axis_name is None:
        return measure

    def over_devices(
        rows: jax.Array, columns: jax.Array, row_ids: PairIds, column_ids: PairIds, rule: Rule, both: bool
    ) -> Statistics:
        count = columns.shape[0]
        columns, column_ids = gather((columns, column_ids), axis_name)
        found = measure(rows, columns, row_ids, column_ids, rule, both)
        if found.column_lse is None:
            return found
        lse = own_part(logsumexp_over_devices(found.column_lse, axis_name), count, axis_name)
        positive = found.column_positive
        if positive is not None:
            positive = own_part(total(positive, axis_name), count, axis_name)
        return found._replace(column_lse=lse, column_positive=positive)

    return over_devices


def contrastive(
    queries: jax.Array,
    items: jax.Array,
    log_scale: jax.typing.ArrayLike,
    measure: Measure,
    *,
    group: jax.typing.ArrayLike | None,
    same_group: SameGroup,
    both: bool,
    axis_name: str | None,
) -> jax.Array:
    """Mean cross-entropy of a batch of pairs from whatever measures its statistics; see the public losses."""
    check_pairs(queries, items)
    check_group(group, jnp.shape(queries)[0], required=same_group == "positive")
    if same_group not in ("left_out", "positive"):
        raise ConfigError(f"same_group is {same_group!r}, expected 'left_out' or 'positive'.")
    rows, columns = sharpened(clamped_scale(log_scale), unit(queries)), unit(items)
    ids = pair_ids(rows.shape[0], group, axis_name)
    rule: Rule = "none" if group is None else same_group
    found = measure(rows, columns, ids, ids, rule, both)
    if found.row_positive is None or found.row_count is None:
        row_positive = column_positive = jnp.sum(rows * columns, axis=1)
    else:
        row_positive = found.row_positive / found.row_count
        column_positive = None if found.column_positive is None else found.column_positive / found.row_count
    forward = jnp.mean(found.row_lse - row_positive)
    if found.column_lse is None or column_positive is None:
        return forward
    return 0.5 * (forward + jnp.mean(found.column_lse - column_positive))
