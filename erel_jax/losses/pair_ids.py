"""Who is who in a batch of pairs, also when it is split over devices.

Every pair has an index, its row in the global batch, and a group. Pairs of one group say the same thing: several
pictures of one text, or one pair drawn twice.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

SameGroup = Literal["left_out", "positive"]
"""What another pair of the own group is: left out of the row, or one more positive."""


class PairIds(NamedTuple):
    """Identity of the pairs of one side.

    Attributes:
        index: int32[B], row in the global batch.
        group: int32[B]; equal to another pair's where both say the same. All different without group ids.
    """

    index: jax.Array
    group: jax.Array


def pair_ids(count: int, group: jax.typing.ArrayLike | None = None, axis_name: str | None = None) -> PairIds:
    """Ids of this device's `count` pairs; a negative group id makes its pair a group of its own.

    The group ids have passed `checks.check_group`, so that int32 holds them.
    """
    index = jnp.arange(count, dtype=jnp.int32)
    if axis_name is not None:
        index = index + jax.lax.axis_index(axis_name).astype(jnp.int32) * count
    if group is None:
        return PairIds(index, index)
    given = jnp.asarray(group).astype(jnp.int32)
    return PairIds(index, jnp.where(given < 0, -1 - index, given))


def is_own(rows: PairIds, columns: PairIds) -> jax.Array:
    """bool[A, B]: the column is the row's own pair."""
    return rows.index[:, None] == columns.index[None, :]


def is_same_group(rows: PairIds, columns: PairIds) -> jax.Array:
    """bool[A, B]: row and column say the same; true for the own pair."""
    return rows.group[:, None] == columns.group[None, :]
