"""Rotary positions against complex numbers, and frequencies by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError
from erel_jax.layers.rotary import Rotary, rotary_frequencies, rotary_tables, rotate


def test_rotation_is_multiplication_by_a_complex_number():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 6)).astype(np.float32)
    rotary = Rotary(theta=100.0)
    turned = np.asarray(rotate(jnp.asarray(x), rotary_tables(rotary, 5, 6)))
    angles = np.arange(5)[:, None] * 100.0 ** (-np.arange(3) / 3)
    expected = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)[None, :, None, :]
    np.testing.assert_allclose(turned[..., :3], expected.real, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(turned[..., 3:], expected.imag, rtol=1e-5, atol=1e-6)


def test_scores_depend_on_the_distance_alone():
    draw = np.random.default_rng(1)
    query, key = (np.broadcast_to(draw.normal(size=4), (1, 9, 1, 4)).astype(np.float32) for _ in range(2))
    tables = rotary_tables(Rotary(), 9, 4)
    query, key = (np.asarray(rotate(jnp.asarray(x), tables))[0, :, 0] for x in (query, key))
    scores = np.einsum("lk,tk->lt", query, key)
    for distance in range(-8, 9):
        assert np.ptp(np.diagonal(scores, distance)) < 1e-5
    assert np.ptp(scores[0]) > 1e-2


def test_frequencies():
    np.testing.assert_allclose(rotary_frequencies(Rotary(theta=16.0), 4), [1.0, 0.25])
    linear = Rotary(theta=16.0, scaling="linear", factor=4.0)
    np.testing.assert_allclose(rotary_frequencies(linear, 4), [0.25, 0.0625])
    # Within 2 pi * 8 positions the three pairs turn 8, 2 and 0.5 times: kept, halfway between 1 and 3, and slowed.
    length = round(2 * np.pi * 8)
    scaled = Rotary(theta=64.0, scaling="llama3", factor=10.0, low=1.0, high=3.0, original_positions=length)
    middle = (length / (2 * np.pi) * 0.25 - 1) / 2
    expected = [1.0, 0.25 * (middle + (1 - middle) / 10), 0.0625 / 10]
    np.testing.assert_allclose(rotary_frequencies(scaled, 6), expected, rtol=1e-5)


def test_long_contexts_slow_pairs_one_by_one_and_yarn_by_their_place():
    long = Rotary(theta=16.0, scaling="longrope", short=(1.0, 2.0), long=(4.0, 8.0), original_positions=5)
    np.testing.assert_allclose(rotary_frequencies(long, 4, 5), [1.0, 0.125])
    np.testing.assert_allclose(rotary_frequencies(long, 4, 6), [0.25, 0.03125])
    # Pairs 0 to 3 turn 16, 4, 1 and 1/4 times within 32 pi positions: slowing begins at the second, ends at the third.
    yarn = Rotary(theta=256.0, scaling="yarn", factor=10.0, low=1.0, high=4.0, original_positions=101, truncate=False)
    first, last = (np.log(101 / (turns * 2 * np.pi)) * 4 / np.log(256.0) for turns in (4.0, 1.0))
    slowed = np.clip((np.arange(4) - first) / (last - first), 0, 1)
    np.testing.assert_allclose(slowed, [0, 0, 1, 1], atol=0.01)
    np.testing.assert_allclose(
        rotary_frequencies(yarn, 8), 256.0 ** (-np.arange(4) / 4) * (1 - 0.9 * slowed), rtol=1e-5
    )
    tables = rotary_tables(Rotary(theta=16.0, attention=1.5), 3, 4)
    np.testing.assert_allclose(tables[0][0], 1.5)
    np.testing.assert_allclose(tables[0] ** 2 + tables[1] ** 2, 2.25, rtol=1e-5)


def test_what_cannot_turn_is_named():
    with pytest.raises(ConfigError, match=r"proportional.*linear"):
        Rotary(scaling="proportional")
    with pytest.raises(ConfigError, match="1 factors for 2 pairs"):
        rotary_frequencies(Rotary(scaling="longrope", short=(2.0,), long=(2.0, 3.0)), 4)
    with pytest.raises(ConfigError, match="positive"):
        Rotary(scaling="longrope", short=(0.0,))
    with pytest.raises(ConfigError, match="odd head width 5"):
        rotary_frequencies(Rotary(), 5)
    with pytest.raises(ConfigError, match="0 < low < high"):
        Rotary(low=4.0, high=1.0)
