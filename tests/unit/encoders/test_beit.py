"""Rows of a table of relative positions, by hand."""

import jax.numpy as jnp
import numpy as np

from erel_jax.encoders.beit import relative_distances, resize_relative


def test_relative_distances_of_four_patches():
    expected = [
        [11, 9, 9, 9, 9],
        [10, 4, 3, 1, 0],
        [10, 5, 4, 2, 1],
        [10, 7, 6, 4, 3],
        [10, 8, 7, 5, 4],
    ]
    np.testing.assert_array_equal(relative_distances(2), expected)


def test_a_table_for_more_patches_interpolates_distances_and_keeps_those_of_the_class_token():
    rows = np.repeat(np.arange(3.0), 3)
    table = jnp.asarray(np.stack([np.r_[rows, 7, 8, 9], np.r_[10 * rows, 1, 2, 3]], axis=1), jnp.float32)
    found = np.asarray(resize_relative(table, 2, 3))
    # Centers of five cells over three, in units of the old ones; beyond the outer centers the border goes on.
    expected = np.clip((np.arange(5) + 0.5) * 3 / 5 - 0.5, 0, 2)
    grid = np.broadcast_to(expected[:, None], (5, 5))
    np.testing.assert_allclose(found[:25].reshape(5, 5, 2), np.stack([grid, 10 * grid], 2), atol=1e-5)
    np.testing.assert_array_equal(found[25:], table[9:])
    assert resize_relative(table, 2, 2) is table
