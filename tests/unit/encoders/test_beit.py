"""Rows of a table of relative positions, by hand."""

import numpy as np

from erel_jax.encoders.beit import relative_distances


def test_relative_distances_of_four_patches():
    expected = [
        [11, 9, 9, 9, 9],
        [10, 4, 3, 1, 0],
        [10, 5, 4, 2, 1],
        [10, 7, 6, 4, 3],
        [10, 8, 7, 5, 4],
    ]
    np.testing.assert_array_equal(relative_distances(2), expected)
