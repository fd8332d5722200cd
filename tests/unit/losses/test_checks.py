"""Bad batches are refused with what was got and what to do."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.errors import ConfigError, DataError, NonFiniteError


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan, math.inf])
def test_temperatures_must_be_positive(temperature):
    with pytest.raises(ConfigError, match="expected a finite number above 0"):
        losses.log_scale_of(temperature)
    with pytest.raises(ConfigError, match="expected a finite number above 0"):
        losses.check_batch(temperature=temperature)


def test_scales_are_clamped_scalars():
    assert losses.log_scale_of(0.07) == pytest.approx(losses.INITIAL_LOG_SCALE)
    np.testing.assert_allclose(losses.clamped_scale(jnp.float32(9.0)), 100.0, rtol=1e-6)
    np.testing.assert_allclose(losses.clamped_scale(9.0, limit=math.log(7)), 7.0, rtol=1e-6)
    with pytest.raises(ConfigError, match="expected a scalar"):
        losses.clamped_scale(jnp.zeros(2))


def test_shapes_and_dtypes_of_pairs():
    side = jnp.eye(3)
    for wrong, words in (
        (jnp.zeros((3,)), r"expected \[B, E\]"),
        (jnp.zeros((0, 3)), "at least one row"),
        (jnp.zeros((3, 3), jnp.int32), "expected floating point"),
        (jnp.zeros((4, 3)), "the same"),
    ):
        with pytest.raises(ConfigError, match=words):
            losses.symmetric_info_nce(side, wrong, 0.0)


def test_values_are_checked_on_the_host():
    good = np.ones((4, 3), np.float32)
    losses.check_batch({"queries": good}, group=np.arange(4), positives=np.eye(4), temperature=0.1)
    bad = good.copy()
    bad[2, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"items: 1 of 4 rows hold NaN or infinity, first \[2\]"):
        losses.check_batch({"queries": good, "items": jnp.asarray(bad, jnp.bfloat16)})
    with pytest.raises(DataError, match=r"2 of 4 ids are negative, first in rows \[1, 3\]"):
        losses.check_batch(group=np.array([0, -1, 2, -5]))
    with pytest.raises(ConfigError, match="expected int32"):
        losses.check_batch(group=np.zeros(3, np.float32))
    with pytest.raises(DataError, match="no row of the batch has a positive"):
        losses.check_batch(positives=np.zeros((4, 3)))


def test_non_finite_embeddings_are_not_hidden():
    side = jnp.eye(3)
    for loss in (losses.symmetric_info_nce, losses.chunked_info_nce):
        assert not np.isfinite(jax.jit(loss)(side.at[1, 1].set(jnp.nan), side, 0.0))
