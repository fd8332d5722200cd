"""The loss against its definition, written as a double loop, in value and gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.data.sequence_batches import BatchCapacity, batch_at, build_batches
from erel_jax.losses import debiased_cross_entropy, row_losses, slot_debiased_cross_entropy

BATCH, LENGTH, WIDTH, ITEMS = 5, 4, 6, 12


def _definition(states, table, windows, log_popularity):
    """Mean loss and its gradients in float64; candidates are slots, and every rule is a plain test on ids."""
    states, table = states.astype(np.float64), table.astype(np.float64)
    batch, slots = windows.shape
    ids = windows.reshape(-1)
    total, rows = 0.0, 0
    to_states, to_table = np.zeros_like(states), np.zeros_like(table)
    for user in range(batch):
        own = set(windows[user].tolist())
        for position in range(slots - 1):
            if windows[user, position] == 0:
                continue
            positive = user * slots + position + 1
            kept = [slot for slot, item in enumerate(ids) if slot == positive or (item != 0 and int(item) not in own)]
            logits = np.array([states[user, position] @ table[ids[slot]] - log_popularity[ids[slot]] for slot in kept])
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            total -= math.log(weights[kept.index(positive)])
            rows += 1
            for slot, weight in zip(kept, weights, strict=True):
                slope = weight - (slot == positive)
                to_states[user, position] += slope * table[ids[slot]]
                to_table[ids[slot]] += slope * states[user, position]
    rows = max(rows, 1)
    return total / rows, to_states / rows, to_table / rows


def _with_gradients(loss):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def _problem(seed, items=ITEMS):
    rng = np.random.default_rng(seed)
    windows = rng.integers(1, items + 1, (BATCH, LENGTH + 1)).astype(np.int32)
    for user, padding in enumerate(rng.integers(0, LENGTH, BATCH)):
        windows[user, :padding] = 0
    windows[-1] = 0  # the empty window of a partial batch
    popularity = rng.random(items + 1).astype(np.float32)
    log_popularity = np.log(popularity / popularity[1:].sum())
    log_popularity[0] = 0.0
    states = rng.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)
    table = rng.normal(size=(items + 1, WIDTH)).astype(np.float32)
    return windows, log_popularity, states, table


def _unique_loss(windows, log_popularity, capacity=None, compute_dtype=jnp.float32, loss=debiased_cross_entropy):
    capacity = capacity or BatchCapacity(unique=BATCH * (LENGTH + 1) + 1, rows=BATCH * LENGTH)
    batch = batch_at(build_batches(windows, np.arange(len(windows))[None], capacity), 0)

    def compute(states, table):
        return loss(
            states.reshape(-1, states.shape[-1])[batch.rows],
            table[batch.unique_items],
            row_user=batch.row_user,
            row_positive=batch.row_positive,
            windows=batch.windows,
            log_popularity=jnp.asarray(log_popularity)[batch.unique_items],
            multiplicity=batch.multiplicity,
            compute_dtype=compute_dtype,
        )

    return jax.jit(compute)


@pytest.mark.parametrize("items", [3, 12, 200])
def test_unique_form_equals_the_definition(items):
    for seed in range(2):
        windows, log_popularity, states, table = _problem(seed, items)
        expected, to_states, to_table = _definition(states, table, windows, log_popularity)
        value, gradients = _with_gradients(_unique_loss(windows, log_popularity))(states, table)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(gradients[0], to_states, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradients[1], to_table, rtol=1e-5, atol=1e-6)


def test_slot_form_equals_the_definition():
    windows, log_popularity, states, table = _problem(7)
    expected, to_states, to_table = _definition(states, table, windows, log_popularity)

    def loss(states, table):
        return slot_debiased_cross_entropy(states, table[windows], jnp.asarray(windows), jnp.asarray(log_popularity))

    value, gradients = _with_gradients(loss)(states, table)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients[0], to_states, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients[1], to_table, rtol=1e-5, atol=1e-6)


def test_two_users_by_hand():
    """Windows [0, 1, 2] and [3, 1, 1]: all embeddings 0, so a logit is -log p alone."""
    windows = np.array([[0, 1, 2], [3, 1, 1]], np.int32)
    popularity = np.array([1.0, 0.5, 0.25, 0.25])
    states, table = np.zeros((2, 2, 2), np.float32), np.zeros((4, 2), np.float32)
    loss = _unique_loss(windows, np.log(popularity).astype(np.float32), loss=row_losses)
    # exp(logits): item 1 -> 2, items 2 and 3 -> 4. User 0, 1 -> 2: candidates 2 (itself) and 3.
    # User 1: candidates are the positive 1, once, and item 2; the other copy of item 1 is excluded.
    np.testing.assert_allclose(loss(states, table)[:3], [np.log(8 / 4), np.log(6 / 2), np.log(6 / 2)], rtol=1e-6)


def test_copies_in_other_windows_count_with_their_multiplicity():
    windows = np.array([[0, 1, 2], [3, 4, 4], [0, 4, 5]], np.int32)
    states, table = np.zeros((3, 2, 2), np.float32), np.zeros((6, 2), np.float32)
    losses = _unique_loss(windows, np.zeros(6, np.float32), loss=row_losses)(states, table)
    np.testing.assert_allclose(losses[0], np.log(1 + 1 + 3 + 1), rtol=1e-6)


def test_padding_rows_and_columns_change_nothing():
    windows, log_popularity, states, table = _problem(3)
    tight = _unique_loss(windows, log_popularity)
    wide = _unique_loss(windows, log_popularity, BatchCapacity(unique=64, rows=48))
    value, gradients = _with_gradients(tight)(states, table)
    padded, padded_gradients = _with_gradients(wide)(states, table)
    np.testing.assert_allclose(padded, value, rtol=1e-6)
    for ours, theirs in zip(padded_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_empty_batch_and_single_user_are_zero_with_finite_gradients():
    log_popularity = np.zeros(ITEMS + 1, np.float32)
    states = np.ones((BATCH, LENGTH, WIDTH), np.float32)
    table = np.ones((ITEMS + 1, WIDTH), np.float32)
    for windows in (np.zeros((BATCH, LENGTH + 1), np.int32), np.eye(BATCH, LENGTH + 1, LENGTH, dtype=np.int32)):
        value, gradients = _with_gradients(_unique_loss(windows, log_popularity))(states, table)
        assert value == 0.0
        assert all(np.isfinite(gradient).all() for gradient in gradients)
    alone = np.zeros((BATCH, LENGTH + 1), np.int32)
    alone[0] = [1, 2, 3, 4, 5]
    assert _unique_loss(alone, log_popularity)(states, table) == pytest.approx(0.0, abs=1e-6)


def test_bfloat16_products_stay_close_and_keep_float32_gradients():
    windows, log_popularity, states, table = _problem(5)
    expected, to_states, _ = _definition(states, table, windows, log_popularity)
    loss = _unique_loss(windows, log_popularity, compute_dtype=jnp.bfloat16)
    value, gradients = _with_gradients(loss)(states, table)
    assert value.dtype == gradients[0].dtype == gradients[1].dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=2e-2)
    np.testing.assert_allclose(gradients[0], to_states, atol=2e-2)


def test_batch_spread_over_devices_gives_the_same_numbers():
    windows, log_popularity, states, table = _problem(9)
    capacity = BatchCapacity(unique=32, rows=24)
    batch = batch_at(build_batches(windows, np.arange(BATCH)[None], capacity), 0)
    rows = states.reshape(-1, WIDTH)[batch.rows]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.P("data"))

    def loss(rows, embeddings, row_user, row_positive, multiplicity, popularity):
        return debiased_cross_entropy(
            rows, embeddings, row_user=row_user, row_positive=row_positive, windows=jnp.asarray(batch.windows),
            log_popularity=popularity, multiplicity=multiplicity,
        )  # fmt: skip

    arguments = (
        rows, table[batch.unique_items], batch.row_user, batch.row_positive, batch.multiplicity,
        log_popularity[batch.unique_items],
    )  # fmt: skip
    compute = _with_gradients(loss)
    value, gradients = compute(*arguments)
    spread_value, spread_gradients = compute(*(jax.device_put(array, spread) for array in arguments))
    np.testing.assert_allclose(spread_value, value, rtol=1e-6)
    for ours, theirs in zip(spread_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
