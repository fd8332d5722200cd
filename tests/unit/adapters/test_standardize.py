"""Standardized states: mean 0 and deviation 1 on what was measured, the released behavior before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.adapters.adapted import item_encoder, standardized
from erel_jax.adapters.method import METHODS
from erel_jax.adapters.standardize import measure_standardization, standardization_spec, standardize
from erel_jax.errors import DataError
from tests.contracts.test_methods_contract import ENCODERS


def test_fresh_parameters_change_nothing():
    states = jax.random.normal(jax.random.key(0), (5, 3, 4))
    params = module.init(jax.random.key(1), standardization_spec(3, 4))
    np.testing.assert_array_equal(standardize(params, states), states)


def test_measured_states_have_mean_0_and_deviation_1_per_tap_and_dimension():
    generator = np.random.default_rng(0)
    states = generator.normal(size=(500, 3, 4)) * generator.uniform(0.1, 30, (3, 4)) + generator.normal(size=(3, 4)) * 9
    found = np.asarray(standardize(measure_standardization(states), jnp.asarray(states, jnp.float32)))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-4)


def test_the_result_keeps_the_states_dtype():
    states = jnp.ones((2, 1, 3), jnp.bfloat16)
    assert standardize(measure_standardization(np.arange(6.0).reshape(2, 1, 3)), states).dtype == jnp.bfloat16


@pytest.mark.parametrize("varies", [True, False])
def test_a_dimension_that_never_varies_stays_small(varies):
    states = np.zeros((4, 1, 3), np.float32)
    states[:, 0, 0] = [1, 2, 3, 4] if varies else 5
    states[:, 0, 1] = [2, 1, 1, 2] if varies else 5
    found = standardize(measure_standardization(states), jnp.asarray(states))
    assert np.isfinite(found).all() and np.abs(found[:, 0, 2]).max() == 0
    if not varies:
        assert np.abs(found).max() == 0


@pytest.mark.parametrize(
    ("states", "says"), [(np.zeros((0, 2, 3)), "no states"), (np.full((2, 2, 3), np.nan), "not finite")]
)
def test_refuses_what_has_no_mean(states, says):
    with pytest.raises(DataError, match=says):
        measure_standardization(states)


def test_a_side_network_reads_standardized_states_and_no_method_trains_the_shift():
    adapted = item_encoder(ENCODERS, METHODS["iisan_cached"], embedding=8)
    assert not any("standardize" in pattern for pattern in adapted.trainable)
    params = module.init(jax.random.key(0), adapted.module.spec)
    generator = np.random.default_rng(0)
    shapes = {name: (64, len(adapted.taps[name]), encoder.width) for name, encoder in ENCODERS.items()}
    states = {name: (7 * generator.normal(size=shape) + 3).astype(np.float32) for name, shape in shapes.items()}
    measured = standardized(adapted, params, states.__getitem__)
    by_hand = {name: (x - x.mean(axis=0)) / x.std(axis=0) for name, x in states.items()}
    np.testing.assert_allclose(
        adapted.module.apply(measured, states), adapted.module.apply(params, by_hand), rtol=1e-4, atol=1e-4
    )


def test_other_methods_have_nothing_to_standardize():
    adapted = item_encoder(ENCODERS, METHODS["linear_probe"], embedding=8)
    params = module.init(jax.random.key(0), adapted.module.spec)
    assert standardized(adapted, params, lambda name: pytest.fail("not asked for")) is params
