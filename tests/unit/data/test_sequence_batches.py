"""Batches with unique items: every index must lead back to the window it came from."""

import numpy as np
import pytest

from erel_jax.data.sequence_batches import (
    BatchCapacity,
    SequenceBatches,
    batch_at,
    build_batches,
    worst_capacity,
)
from erel_jax.errors import ConfigError


def _windows(users, length, items, seed=0):
    rng = np.random.default_rng(seed)
    windows = rng.integers(1, items + 1, (users, length + 1)).astype(np.int32)
    for user, padding in enumerate(rng.integers(0, length, users)):
        windows[user, :padding] = 0
    return windows


def test_indices_lead_back_to_items():
    windows = _windows(20, 6, 30)
    order = np.array([[3, 1, 4, -1], [19, 0, 7, 8]])
    batches = build_batches(windows, order, BatchCapacity(unique=40, rows=32))
    for step in range(2):
        batch = batch_at(batches, step)
        own = np.stack([windows[user] if user >= 0 else np.zeros(7, int) for user in order[step]])
        np.testing.assert_array_equal(batch.unique_items[batch.windows], own)
        expected, counts = np.unique(own[own > 0], return_counts=True)
        np.testing.assert_array_equal(batch.unique_items[1 : len(expected) + 1], expected)
        np.testing.assert_array_equal(batch.multiplicity[1 : len(expected) + 1], counts)
        assert batch.unique_items[0] == 0
        assert batch.multiplicity[0] == 0
        assert not batch.multiplicity[len(expected) + 1 :].any()
        rows = [(user, slot) for user in range(4) for slot in range(6) if own[user, slot]]
        real = batch.row_positive > 0
        assert real.sum() == len(rows)
        assert real[: len(rows)].all()
        np.testing.assert_array_equal(batch.row_user[: len(rows)], [user for user, _ in rows])
        np.testing.assert_array_equal(batch.rows[: len(rows)], [user * 6 + slot for user, slot in rows])
        np.testing.assert_array_equal(
            batch.unique_items[batch.row_input[: len(rows)]], [own[user, slot] for user, slot in rows]
        )
        slot_row = np.full((4, 6), -1)
        for row, (user, slot) in enumerate(rows):
            slot_row[user, slot] = row
        np.testing.assert_array_equal(batch.slot_row, slot_row)
        positives = batch.unique_items[batch.row_positive[: len(rows)]]
        np.testing.assert_array_equal(positives, [own[user, slot + 1] for user, slot in rows])


def test_capacity_is_the_largest_need_of_all_epochs():
    windows = _windows(101, 5, 60)
    plan = SequenceBatches(windows=windows, batch_size=8, epochs=3, seed=4, multiple=1)
    unique = rows = 0
    for epoch in range(3):
        for users in plan.order(epoch):
            own = windows[users[users >= 0]]
            unique = max(unique, len(set(own.ravel().tolist()) - {0}) + 1)
            rows = max(rows, int((own[:, :-1] > 0).sum()))
    assert plan.capacity == BatchCapacity(unique=unique, rows=rows)
    rounded = SequenceBatches(windows=windows, batch_size=8, epochs=3, seed=4, multiple=32).capacity
    assert rounded == BatchCapacity(unique=-(-unique // 32) * 32, rows=-(-rows // 32) * 32)
    worst = worst_capacity(8, 5, multiple=1)
    assert worst == BatchCapacity(unique=49, rows=40)
    assert plan.capacity.unique <= worst.unique


def test_every_user_trains_once_per_epoch_in_an_order_of_its_own():
    plan = SequenceBatches(windows=_windows(21, 4, 9), batch_size=8, epochs=2, seed=1)
    orders = [plan.order(0).ravel(), plan.order(1).ravel()]
    for order in orders:
        assert sorted(order[order >= 0].tolist()) == list(range(21))
        assert (order[-3:] == -1).all()
    assert (orders[0] != orders[1]).any()
    again = SequenceBatches(windows=_windows(21, 4, 9), batch_size=8, epochs=2, seed=1)
    np.testing.assert_array_equal(again.order(1), plan.order(1))


def test_a_batch_by_number_equals_the_batch_of_its_epoch():
    plan = SequenceBatches(windows=_windows(21, 4, 9), batch_size=8, epochs=2)
    assert (len(plan), plan.steps_per_epoch) == (6, 3)
    for step, batch in enumerate(plan):
        for name in (
            "unique_items",
            "multiplicity",
            "windows",
            "rows",
            "row_user",
            "row_input",
            "row_positive",
            "slot_row",
        ):
            np.testing.assert_array_equal(getattr(plan[step], name), getattr(batch, name))


def test_steps_per_epoch_of_the_published_training_loop():
    windows = np.ones((12_076, 2), np.int32)
    assert SequenceBatches(windows=windows, batch_size=64, epochs=1).steps_per_epoch == 189
    assert SequenceBatches(windows=windows, batch_size=32, epochs=1).steps_per_epoch == 378


def test_padding_alone_makes_an_empty_batch():
    batch = batch_at(build_batches(_windows(3, 4, 9), np.array([[-1, -1]]), BatchCapacity(unique=4, rows=4)), 0)
    assert not batch.unique_items.any()
    assert not batch.multiplicity.any()
    assert not batch.row_positive.any()


def test_wrong_settings_are_refused():
    windows = _windows(9, 4, 30)
    with pytest.raises(ConfigError, match="expected at least 1 each"):
        SequenceBatches(windows=windows, batch_size=0, epochs=1)
    with pytest.raises(ConfigError, match=r"expected \[U, L \+ 1\]"):
        SequenceBatches(windows=windows[:, :1], batch_size=1, epochs=1)
    plan = SequenceBatches(windows=windows, batch_size=4, epochs=1)
    for use in (lambda: plan[3], lambda: plan.epoch(1), lambda: plan[-1]):
        with pytest.raises(ConfigError, match="Plan more epochs"):
            use()
    with pytest.raises(ConfigError, match="the capacity is 4 and 4"):
        build_batches(windows, np.arange(9)[None], BatchCapacity(unique=4, rows=4))
