"""Batch streams: epochs, exact resume, refusal of foreign states, and complete evaluation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from erel_jax.data.pipeline import BatchStream, GatheredBatches, eval_batches, gather_pairs
from erel_jax.errors import ConfigError


def stream(**changes) -> BatchStream:
    arguments = {"size": 103, "batch": 8, "seed": 7, "data_fingerprint": "abc"} | changes
    return BatchStream(arguments.pop("size"), **arguments)


def take(batches: BatchStream, count: int) -> list[list[int]]:
    return [next(batches).tolist() for _ in range(count)]


def test_an_epoch_visits_each_row_once_in_a_new_order() -> None:
    batches = stream()
    assert batches.steps_per_epoch == 12
    first, second = take(batches, 12), take(batches, 12)
    for epoch in (first, second):
        rows = [row for batch in epoch for row in batch]
        assert len(rows) == len(set(rows)) == 96
        assert set(rows) <= set(range(103))
    assert first != second
    batch = next(batches)
    assert batch.dtype == np.int32 and batch.shape == (8,)


def test_the_seed_decides_the_order() -> None:
    assert take(stream(), 3) == take(stream(), 3)
    assert take(stream(), 3) != take(stream(seed=8), 3)


@pytest.mark.parametrize("groups", [None, np.arange(103) % 40], ids=["rows", "groups"])
@pytest.mark.parametrize("stop", [0, 5, 13])
def test_resume_continues_exactly(stop: int, groups) -> None:
    whole = stream(groups=groups)
    expected = take(whole, 30)
    interrupted = stream(groups=groups)
    take(interrupted, stop)
    state = json.loads(json.dumps(interrupted.state()))
    resumed = stream(groups=groups)
    take(resumed, 3)
    resumed.restore(state)
    assert take(resumed, 30 - stop) == expected[stop:]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"size": 104}, "size"),
        ({"batch": 4}, "batch"),
        ({"seed": 8}, "seed"),
        ({"data_fingerprint": "xyz"}, "data"),
        ({"groups": np.arange(103)}, "groups"),
    ],
)
def test_the_state_of_another_pipeline_is_refused(changes, name: str) -> None:
    original, other = stream(), stream(**changes)
    state = original.state()
    with pytest.raises(ConfigError, match=f"different: {name}") as caught:
        other.restore(state)
    assert str(original.fingerprint) in str(caught.value)
    assert str(other.fingerprint) in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"fingerprint": 3, "position": {}}, {"position": {"next_index": 0}}])
def test_something_else_is_not_a_state(state) -> None:
    with pytest.raises(ConfigError, match="Not a saved input state"):
        stream().restore(state)


def test_groups_occur_once_per_batch_with_all_their_rows_in_time() -> None:
    groups = np.random.default_rng(0).integers(0, 30, 103)
    batches = stream(groups=groups)
    distinct = len(set(groups.tolist()))
    assert batches.steps_per_epoch == distinct // 8
    seen: set[int] = set()
    for _ in range(400):
        rows = next(batches)
        chosen = groups[rows].tolist()
        assert len(set(chosen)) == 8
        seen.update(rows.tolist())
    assert seen == set(range(103))


def test_rows_of_a_group_are_drawn_evenly() -> None:
    groups = np.array([0, 1, 1, 1, 2])
    batches = stream(size=5, batch=3, groups=groups)
    counts = np.zeros(5)
    for _ in range(600):
        np.add.at(counts, next(batches), 1)
    assert counts[0] == counts[4] == 600
    assert np.abs(counts[1:4] - 200).max() < 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 104}, "batch is 104, but there are 103 rows"),
        ({"groups": np.zeros(103, int)}, "there are 1 distinct texts"),
        ({"groups": np.zeros(7, int)}, r"shape \(7,\), expected \(103,\)"),
        ({"batch": 0}, "batch is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_streams_are_refused(changes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(**changes)


@pytest.mark.parametrize(("size", "batch"), [(103, 25), (100, 25), (3, 8), (1, 1)])
def test_evaluation_covers_every_row_once(size: int, batch: int) -> None:
    batches = list(eval_batches(size, batch))
    assert len(batches) == -(-size // batch)
    assert all(rows.shape == mask.shape == (batch,) and rows.dtype == np.int32 for rows, mask in batches)
    assert all(rows.min() >= 0 and rows.max() < size for rows, _ in batches)
    assert np.concatenate([rows[mask] for rows, mask in batches]).tolist() == list(range(size))


def test_unequal_shards_take_equal_steps_and_cover_each_row_once() -> None:
    parts = [list(eval_batches(103, 13, shard=shard, shards=4)) for shard in range(4)]
    assert {len(part) for part in parts} == {2}
    rows = np.concatenate([rows[mask] for part in parts for rows, mask in part])
    assert len(rows) == 103
    assert set(rows.tolist()) == set(range(103))


@pytest.mark.parametrize("arguments", [(0, 4, 0, 1), (5, 0, 0, 1), (5, 4, 1, 1), (5, 4, -1, 2)])
def test_impossible_evaluations_are_refused_at_the_call(arguments) -> None:
    size, batch, shard, shards = arguments
    with pytest.raises(ConfigError, match="expected at least one row"):
        eval_batches(size, batch, shard=shard, shards=shards)


def test_gather_fetches_pictures_and_text_rows() -> None:
    gray = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)

    class Split(SimpleNamespace):
        def __len__(self) -> int:
            return 5

    split = Split(images=np.broadcast_to(gray, (5, 2, 2, 3)), text_of_image=np.array([0, 1, 1, 2, 0], np.int32))
    images, texts = gather_pairs(split, np.array([4, 1], np.int32))  # pyright: ignore[reportArgumentType]
    assert images.shape == (2, 2, 2, 3) and images.flags.c_contiguous
    assert images[:, 0, 0].tolist() == [[4, 4, 4], [1, 1, 1]]
    assert texts.tolist() == [0, 1]
    for rows in ([5], [-1]):
        with pytest.raises(ConfigError, match="of a split with 5 pictures"):
            gather_pairs(split, np.array(rows))  # pyright: ignore[reportArgumentType]


def test_gathered_batches_carry_arrays_ids_and_state() -> None:
    def make() -> GatheredBatches:
        return GatheredBatches(stream(), lambda rows: {"doubled": rows * 2}, [f"id {row}" for row in range(103)])

    batches, rows = make(), stream()
    for _ in range(5):
        arrays, ids = next(batches)
        expected = next(rows)
        assert arrays["doubled"].tolist() == (expected * 2).tolist()
        assert ids == [f"id {row}" for row in expected]
    resumed = make()
    resumed.restore(batches.state())
    assert next(resumed)[1] == next(batches)[1]
    with pytest.raises(ConfigError, match="different: seed"):
        GatheredBatches(stream(seed=1), dict, []).restore(batches.state())
