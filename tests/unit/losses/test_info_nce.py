"""Symmetric InfoNCE against hand-computed values and a NumPy version."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.losses import LOG_SCALE_LIMIT

symmetric_info_nce = jax.jit(losses.symmetric_info_nce, static_argnames="axis_name")


def _reference(queries, items, scale, groups):
    queries, items = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, items))
    total = 0.0
    for a, b in ((queries, items), (items, queries)):
        for row in range(len(a)):
            kept = [j for j in range(len(b)) if j == row or groups[j] != groups[row]]
            weights = np.exp(scale * (b[kept] @ a[row]))
            total -= math.log(weights[kept.index(row)] / weights.sum())
    return total / (2 * len(queries))


def test_two_orthogonal_pairs_by_hand():
    side = jnp.eye(2)
    expected = math.log(1 + math.exp(-3.0))
    np.testing.assert_allclose(symmetric_info_nce(side, 5.0 * side, jnp.log(3.0)), expected, rtol=1e-6)


def test_equals_numpy_with_and_without_groups():
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(2, 7, 5)).astype(np.float32)
    groups = np.array([0, 1, 0, 2, 3, 3, 3], np.int32)
    plain = symmetric_info_nce(queries, items, jnp.log(4.0))
    np.testing.assert_allclose(plain, _reference(queries, items, 4.0, np.arange(7)), rtol=1e-5)
    grouped = symmetric_info_nce(queries, items, jnp.log(4.0), group=jnp.asarray(groups))
    np.testing.assert_allclose(grouped, _reference(queries, items, 4.0, groups), rtol=1e-5)
    assert grouped < plain


def test_copies_of_a_pair_do_not_punish_each_other():
    side = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    loss = symmetric_info_nce(side, side, jnp.float32(20.0), group=jnp.array([4, 4, 9]))
    assert loss == pytest.approx(0.0, abs=1e-6)
    assert symmetric_info_nce(side, side, jnp.float32(20.0)) > 0.4


def test_scale_is_bounded_and_zero_vectors_are_finite():
    side = jnp.eye(3)
    at_limit = symmetric_info_nce(side, -side, jnp.float32(LOG_SCALE_LIMIT))
    np.testing.assert_allclose(symmetric_info_nce(side, -side, jnp.float32(50.0)), at_limit, rtol=1e-6)
    np.testing.assert_allclose(at_limit, 100 + math.log(2 + math.exp(-100)), rtol=1e-6)
    slope = jax.jit(jax.grad(lambda s: losses.symmetric_info_nce(side, -side, s)))
    assert slope(jnp.float32(50.0)) == 0.0
    assert slope(jnp.float32(2.0)) > 0.0
    value, gradient = jax.jit(jax.value_and_grad(losses.symmetric_info_nce))(jnp.zeros((3, 3)), side, jnp.float32(1.0))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_half_precision_inputs_are_computed_in_float32():
    rng = np.random.default_rng(1)
    queries, items = (jnp.asarray(side, jnp.bfloat16) for side in rng.normal(size=(2, 6, 8)))
    wide = symmetric_info_nce(queries.astype(jnp.float32), items.astype(jnp.float32), jnp.float32(2.0))
    loss = symmetric_info_nce(queries, items, jnp.float32(2.0))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, wide, rtol=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_batch_split_over_devices_equals_the_whole(grouped):
    rng = np.random.default_rng(2)
    queries, items = rng.normal(size=(2, 16, 5)).astype(np.float32)
    groups = jnp.asarray(rng.integers(0, 9, 16), jnp.int32) if grouped else None
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))

    def whole(queries, items, scale):
        return symmetric_info_nce(queries, items, scale, group=groups)

    def split(queries, items, scale):
        def shard(queries, items, scale, groups=None):
            loss = symmetric_info_nce(queries, items, scale, group=groups, axis_name="data")
            return jax.lax.pmean(loss, "data")

        extra = (groups,) if grouped else ()
        specs = (jax.P("data"), jax.P("data"), jax.P(), *(jax.P("data") for _ in extra))
        mapped = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=jax.P())
        return mapped(queries, items, scale, *extra)

    arguments = (jnp.asarray(queries), jnp.asarray(items), jnp.float32(2.0))
    value, gradients = jax.jit(jax.value_and_grad(whole, argnums=(0, 1, 2)))(*arguments)
    split_value, split_gradients = jax.jit(jax.value_and_grad(split, argnums=(0, 1, 2)))(*arguments)
    np.testing.assert_allclose(split_value, value, rtol=1e-6)
    for ours, theirs in zip(split_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
