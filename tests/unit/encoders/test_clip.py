"""Where a CLIP text ends, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.encoders.clip import end_positions

IDS = jnp.array(
    [
        [8, 3, 9, 9, 9],  # padded with its end token: the first one counts
        [8, 9, 4, 9, 0],  # an end token inside
        [8, 3, 4, 5, 9],  # the end token is masked away: the last real token
        [9, 1, 1, 1, 1],
    ],
    jnp.int32,
)
MASK = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize(("eos_id", "expected"), [(9, [2, 1, 3, 0]), (2, [2, 1, 0, 0]), (7, [2, 3, 3, 0])])
def test_end_positions(eos_id, expected):
    np.testing.assert_array_equal(end_positions(IDS, MASK, eos_id), expected)


def test_a_text_without_real_tokens_ends_at_its_first_place():
    for eos_id in (2, 9):
        np.testing.assert_array_equal(end_positions(IDS, jnp.zeros_like(MASK), eos_id), [0, 0, 0, 0])
