"""Cosines of all pairs inside clusters, in tiles of one size, so that one compiled program serves every cluster."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.selection.blocks import random_rows
from erel_jax.selection.kmeans import unit_rows

NOTHING = -2.0
"""Cosine of a row that was compared with no earlier row."""


class Earlier(NamedTuple):
    """Best match of each row among earlier rows.

    Attributes:
        cosines: float32[N], `NOTHING` where there was none.
        partner: int64[N], row number of the match, -1 where there was none.
    """

    cosines: np.ndarray
    partner: np.ndarray


def compare_clusters(rows: np.ndarray, near: np.ndarray, place: np.ndarray, tile_rows: int) -> Earlier:
    """Compares the members of every cluster with all rows that name this cluster.

    Args:
        rows: float[N, E], read at random.
        near: int32[N, P], clusters that each row names; its own one comes first.
        place: int32[N], place of each row in the order; of a pair, the later row receives the match.
        tile_rows: rows and columns of a tile.

    Returns:
        The best match of each row.
    """
    count, probes = near.shape
    found = Earlier(np.full(count, NOTHING, np.float32), np.full(count, -1, np.int64))
    owners = np.argsort(near[:, 0], kind="stable")
    callers = np.argsort(near.ravel(), kind="stable")
    clusters = np.arange(int(near.max()) + 2)
    own_start = np.searchsorted(near[owners, 0], clusters)
    call_start = np.searchsorted(near.ravel()[callers], clusters)
    for cluster in clusters[:-1]:
        members = owners[own_start[cluster] : own_start[cluster + 1]]
        others = callers[call_start[cluster] : call_start[cluster + 1]] // probes
        for left in _tiles(members, tile_rows):
            left_side = _side(rows, place, left, tile_rows)
            for right in _tiles(others, tile_rows):
                right_side = _side(rows, place, right, tile_rows)
                forward, backward = _compare(*left_side, *right_side)
                _improve(found, left, right, forward)
                _improve(found, right, left, backward)
    return found


def _tiles(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _side(rows: np.ndarray, place: np.ndarray, numbers: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(float32[size, E] rows of length one, int32[size] places); fillers have place -1 and are never compared."""
    missing = size - len(numbers)
    vectors = np.pad(unit_rows(random_rows(rows, numbers)), ((0, missing), (0, 0)))
    return vectors, np.pad(place[numbers], (0, missing), constant_values=-1)


@jax.jit
def _compare(
    left: jax.Array, left_place: jax.Array, right: jax.Array, right_place: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Best earlier column of each row, and best earlier row of each column: (cosine, index) each."""
    cosines = jnp.einsum("ae,be->ab", left, right, preferred_element_type=jnp.float32)
    real = (left_place >= 0)[:, None] & (right_place >= 0)[None, :]
    right_first = real & (right_place[None, :] < left_place[:, None])
    left_first = real & (left_place[:, None] < right_place[None, :])
    forward = jnp.where(right_first, cosines, NOTHING)
    backward = jnp.where(left_first, cosines, NOTHING)
    return (
        (jnp.max(forward, axis=1), jnp.argmax(forward, axis=1)),
        (jnp.max(backward, axis=0), jnp.argmax(backward, axis=0)),
    )


def _improve(found: Earlier, to: np.ndarray, by: np.ndarray, matches: tuple[jax.Array, jax.Array]) -> None:
    cosines, index = (np.asarray(part)[: len(to)] for part in matches)
    better = cosines > found.cosines[to]
    rows = to[better]
    found.cosines[rows] = cosines[better]
    found.partner[rows] = by[index[better]]
