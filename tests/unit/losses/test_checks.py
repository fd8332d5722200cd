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


PAIRS = jnp.eye(4)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (np.array([1, 2, 3, 2**32 + 1]), r"1 of 4 ids do not fit into int32, first \[4294967297\] in rows \[3\]"),
        ([0, 1, 2, -(2**31) - 1], "do not fit into int32"),
        (np.array([0, 1, 2, 2**31], np.uint32), "np.unique"),
        (np.array([0, None, 1, 2]), r"group is object\[4\], expected int32\[4\]"),
        (["a", "b", "c", "d"], "give pairs that have none -1"),
        ([0, [1, 2], 3, 4], "group is no array"),
        (np.array([0.0, 1.0, 2.0, 3.0]), "group is float64"),
    ],
)
def test_group_ids_that_are_no_int32(group, message):
    for call in (losses.symmetric_info_nce, losses.sigmoid_loss, losses.chunked_info_nce):
        bias = (0.0,) if call is losses.sigmoid_loss else ()
        with pytest.raises(ConfigError, match=message):
            call(PAIRS, PAIRS, 1.0, *bias, group=group)
    with pytest.raises(ConfigError, match=message):
        losses.check_batch(group=group)


@pytest.mark.parametrize(
    "group", [[0, 0, 1, 2], np.array([5, 5, 6, 7], np.uint64), np.array([2**31 - 1] * 2 + [3, -1])]
)
def test_group_ids_that_int32_holds(group):
    wanted = losses.symmetric_info_nce(PAIRS, PAIRS, 1.0, group=jnp.array([0, 0, 1, 2]))
    assert losses.symmetric_info_nce(PAIRS, PAIRS, 1.0, group=group) == wanted


def test_ids_that_cannot_be_looked_at_must_be_int32():
    loss = jax.jit(lambda group: losses.symmetric_info_nce(PAIRS, PAIRS, 1.0, group=group))
    with pytest.raises(ConfigError, match=r"group is uint32\[4\] inside a compiled function"):
        loss(np.arange(4, dtype=np.uint32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((0, 3)), r"queries is float64\[0, 3\]"),
        (1.0, r"float64\[\], expected"),
        (None, "queries is object"),
        ([[1.0], [1.0, 2.0]], "queries is no array"),
    ],
)
def test_embeddings_that_are_no_rows(values, message):
    with pytest.raises(ConfigError, match=message):
        losses.check_batch({"queries": values})


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.check_batch(temperature="0.1"),  # pyright: ignore[reportArgumentType]
        lambda: losses.log_scale_of("0.07"),  # pyright: ignore[reportArgumentType]
        lambda: losses.listnet_loss(jnp.eye(3), jnp.eye(3), temperature=1e-50),
        lambda: losses.margin_loss(PAIRS, PAIRS, margin=math.inf),
        lambda: losses.triplet_loss(PAIRS, PAIRS, PAIRS, margin=math.inf),
    ],
)
def test_settings_must_be_numbers_that_can_be_used(call):
    with pytest.raises(ConfigError, match="expected a finite number above 0"):
        call()
