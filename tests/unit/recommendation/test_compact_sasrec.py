"""The row form of the user encoder against the window form, in states and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import module
from erel_jax.data.sequence_batches import BatchCapacity, batch_at, build_batches
from erel_jax.recommendation import SasrecConfig, compact_sasrec, sasrec

CONFIG = SasrecConfig(width=12, max_length=5, heads=3, blocks=2, mlp_ratio=2)


def _problem():
    rng = np.random.default_rng(0)
    windows = rng.integers(1, 9, (6, CONFIG.max_length + 1)).astype(np.int32)
    for user, padding in enumerate(rng.integers(0, CONFIG.max_length, 6)):
        windows[user, :padding] = 0
    windows[-1] = 0
    # More rows than needed, so that unused rows are part of the test.
    batch = batch_at(build_batches(windows, np.arange(6)[None], BatchCapacity(unique=16, rows=40)), 0)
    table = jnp.asarray(rng.normal(size=(16, CONFIG.width)), jnp.float32)
    weights = jnp.asarray(
        rng.normal(size=(40, CONFIG.width)) * (np.asarray(batch.row_positive) > 0)[:, None], jnp.float32
    )
    return batch, table, weights


def test_states_and_gradients_equal_the_window_form():
    batch, table, weights = _problem()
    wide, compact = sasrec(CONFIG), compact_sasrec(CONFIG)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(float(leaf.ndim == 1) + rng.normal(scale=0.3, size=leaf.shape), jnp.float32),
        module.abstract(compact.spec),
    )

    def from_windows(params, table):
        history = batch.windows[:, :-1]
        states = wide.apply(params, table[history], jnp.asarray(history != 0))
        states = states.reshape(-1, CONFIG.width)[batch.rows]
        return jnp.sum(states * weights), states

    def from_rows(params, table):
        states = compact.apply(params, table[batch.row_input], jnp.asarray(batch.rows), jnp.asarray(batch.slot_row))
        return jnp.sum(states * weights), states

    (_, expected), expected_gradients = jax.jit(jax.value_and_grad(from_windows, argnums=(0, 1), has_aux=True))(
        params, table
    )
    (_, states), gradients = jax.jit(jax.value_and_grad(from_rows, argnums=(0, 1), has_aux=True))(params, table)
    real = batch.row_positive > 0
    np.testing.assert_allclose(states[real], expected[real], atol=1e-5)
    assert np.isfinite(states).all()
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_parameters_fit_both_forms():
    assert module.count(compact_sasrec().spec) == 100_224
    assert jax.tree.structure(compact_sasrec().spec) == jax.tree.structure(sasrec().spec)


def test_dropout_needs_both_a_key_and_training():
    batch, table, _ = _problem()
    compact = compact_sasrec(SasrecConfig(width=12, max_length=5, heads=3, blocks=1, dropout=0.5))
    params = jax.jit(lambda key: module.init(key, compact.spec))(jax.random.key(0))
    apply = jax.jit(compact.apply, static_argnames="train")
    inputs = params, table[batch.row_input], batch.rows, batch.slot_row
    plain = apply(*inputs)
    np.testing.assert_array_equal(apply(*inputs, key=jax.random.key(1)), plain)
    assert np.abs(apply(*inputs, key=jax.random.key(1), train=True) - plain).max() > 0.1
