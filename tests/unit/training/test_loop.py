"""The loop: same losses after a stop, honest counts, and giving up on purpose."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError, NonFiniteError, PreemptedError
from erel_jax.training import Checkpoints, fit, train_step

PRINT = {"seed": 0}


class StopAfter:
    """Stands for a StopFlag whose signal comes during the n-th poll."""

    name = "SIGTERM"

    def __init__(self, polls):
        self.left = polls

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0


def restore(checkpoints, *wanted):
    found = checkpoints.restore(*wanted)
    assert found is not None
    return found


def straight(task, steps=8, **options):
    return fit(task.step, task.new_state(), task.frozen, task.stream(), steps=steps, **options)


@pytest.fixture(scope="module")
def reference(head_task):
    return straight(head_task)


def test_training_lowers_the_loss(task):
    result = straight(task, 60)
    assert np.mean(result.losses[-10:]) < 0.8 * np.mean(result.losses[:10])


def test_losses_are_those_of_a_plain_loop(head_task, reference):
    step = train_step(head_task.loss_fn, head_task.optimizer, donate=False)
    state, stream, losses = head_task.new_state(), head_task.stream(), []
    for _ in range(8):
        state, metrics = step(state, head_task.frozen, next(stream)[0])
        losses.append(float(metrics["loss"]))
    assert losses == reference.losses


@pytest.mark.parametrize("stopped_at", [1, 5])
def test_resume_is_bit_for_bit(head_task, reference, tmp_path, stopped_at):
    first = fit(
        head_task.step, head_task.new_state(), head_task.frozen, head_task.stream(), steps=stopped_at,
        checkpoint=Checkpoints(tmp_path, PRINT),
    )  # fmt: skip
    checkpoints, stream = Checkpoints(tmp_path, PRINT), head_task.stream()
    found = restore(checkpoints, head_task.new_state())
    stream.restore(found.stream_state)
    step = train_step(head_task.loss_fn, head_task.optimizer)
    second = fit(step, found.state, head_task.frozen, stream, steps=8, checkpoint=checkpoints)
    assert first.losses + second.losses == reference.losses
    same = jax.tree.map(np.array_equal, second.state.trainable, reference.state.trainable)
    assert all(jax.tree.leaves(same))
    assert second.steps_done == 8 - stopped_at


def test_stop_saves_before_the_waiting_batch(head_task, reference, tmp_path):
    checkpoints = Checkpoints(tmp_path, PRINT)
    with pytest.raises(PreemptedError, match=r"SIGTERM came after 3 of 8 steps; saved in .*step_00000003") as raised:
        straight(head_task, checkpoint=checkpoints, stop=StopAfter(3))
    assert raised.value.exit_code == 75
    found = restore(checkpoints, head_task.new_state())
    assert (found.step, found.stream_state) == (3, {"next": 3})
    stream = head_task.stream()
    stream.restore(found.stream_state)
    rest = fit(head_task.step, found.state, head_task.frozen, stream, steps=8, checkpoint=checkpoints)
    assert rest.losses == reference.losses[3:]


def test_stop_before_the_first_step(head_task, tmp_path):
    checkpoints = Checkpoints(tmp_path, PRINT)
    with pytest.raises(PreemptedError, match="after 0 of 8"):
        straight(head_task, checkpoint=checkpoints, stop=StopAfter(0))
    assert restore(checkpoints, head_task.new_state()).stream_state == {"next": 0}


def test_stop_without_a_folder_says_so(head_task):
    with pytest.raises(PreemptedError, match="no checkpoint folder"):
        straight(head_task, stop=StopAfter(2))


def test_checkpoints_come_regularly_and_at_the_end(head_task, tmp_path):
    checkpoints = Checkpoints(tmp_path, PRINT, keep=9)
    result = straight(head_task, 7, checkpoint=checkpoints, checkpoint_every=3)
    assert checkpoints.steps() == [3, 6, 7]
    assert [restore(checkpoints, head_task.new_state(), k).stream_state for k in (3, 6, 7)] == [
        {"next": 3},
        {"next": 6},
        {"next": 7},
    ]
    assert result.checkpoint_seconds > 0
    again = restore(checkpoints, head_task.new_state())
    done = fit(head_task.step, again.state, head_task.frozen, head_task.stream(), steps=7, checkpoint=checkpoints)
    assert done.steps_done == 0 and done.losses == [] and done.median_step_seconds is None


def test_fresh_start_into_old_checkpoints_is_refused(head_task, tmp_path):
    checkpoints = Checkpoints(tmp_path, PRINT)
    straight(head_task, 2, checkpoint=checkpoints)
    with pytest.raises(ConfigError, match=r"holds steps \[2\]"):
        straight(head_task, 4, checkpoint=checkpoints)


def test_nan_batches_are_skipped_counted_and_listed(head_task, tmp_path):
    stream = head_task.stream(bad=(2, 3, 6))
    result = fit(head_task.step, head_task.new_state(), head_task.frozen, stream, steps=8, report_folder=tmp_path)
    assert result.skipped == 3
    assert [index for index, loss in enumerate(result.losses) if not np.isfinite(loss)] == [2, 3, 6]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.trainable))
    entries = [json.loads(line) for line in (tmp_path / "nonfinite_batches.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 3, 6]
    assert entries[0]["ids"][3] == "row 2.3" and entries[0]["loss"] == "nan"


def test_ten_in_a_row_end_the_run(head_task, tmp_path):
    stream = head_task.stream(bad=(1, *range(3, 30)))
    with pytest.raises(NonFiniteError, match=r"10 times in a row, steps 3 to 12") as raised:
        fit(
            head_task.step, head_task.new_state(), head_task.frozen, stream, steps=30,
            checkpoint=Checkpoints(tmp_path, PRINT),
        )  # fmt: skip
    assert raised.value.exit_code == 5
    assert "step 3: row 3.0" in str(raised.value) and "step 12: row 12.0" in str(raised.value)
    assert "step 1:" not in str(raised.value)
    assert len((tmp_path / "nonfinite_batches.jsonl").read_text().splitlines()) == 11


def test_a_row_of_skips_goes_on_after_a_resume(head_task, tmp_path):
    checkpoints, stream = Checkpoints(tmp_path, PRINT), head_task.stream(bad=tuple(range(3, 30)))
    fit(head_task.step, head_task.new_state(), head_task.frozen, stream, steps=9, checkpoint=checkpoints)
    found = restore(checkpoints, head_task.new_state())
    with pytest.raises(NonFiniteError, match="steps 3 to 12"):
        fit(head_task.step, found.state, head_task.frozen, stream, steps=30, checkpoint=checkpoints)


def test_stream_that_ends_is_named(head_task):
    with pytest.raises(DataError, match="ended after 5"):
        fit(head_task.step, head_task.new_state(), head_task.frozen, head_task.stream(length=5), steps=8)


def test_times_counts_and_progress(head_task):
    step, seen = train_step(head_task.loss_fn, head_task.optimizer), []
    result = fit(
        step, head_task.new_state(), head_task.frozen, head_task.stream(), steps=9, on_progress=seen.append,
        history_every=4,
    )  # fmt: skip
    assert len(result.losses) == 3 and len(result.step_seconds) == 8
    assert result.compile_seconds == step.compile_seconds > 0 and result.recompiles_after_warmup == 0
    assert result.median_step_seconds == pytest.approx(np.median(result.step_seconds))
    assert sum(result.step_seconds) <= result.train_seconds
    assert result.step_seconds_iqr == pytest.approx(
        np.percentile(result.step_seconds, 75) - np.percentile(result.step_seconds, 25)
    )
    assert [p.step for p in seen] == list(range(1, 10))
    assert seen[0].seconds_left is None and seen[-1].seconds_left == 0.0


def test_changing_shapes_are_counted(head_task):
    class Ragged(type(head_task.stream())):
        def __next__(self):
            batch, ids = super().__next__()
            rows = 8 if self.next == 4 else 16
            return {name: value[:rows] for name, value in batch.items()}, ids

    step = train_step(head_task.loss_fn, head_task.optimizer)
    assert fit(step, head_task.new_state(), head_task.frozen, Ragged(), steps=6).recompiles_after_warmup == 1


def test_no_hidden_transfer_in_the_loop(head_task):
    state = head_task.new_state()
    with jax.transfer_guard("disallow"):
        assert fit(head_task.step, state, head_task.frozen, head_task.stream(), steps=3).steps_done == 3
        with pytest.raises(Exception, match="Disallowed host-to-device"):
            jax.numpy.sin(np.ones(3, np.float32))


@pytest.mark.parametrize("options", [{"checkpoint_every": 0}, {"max_consecutive_skips": 0}, {"history_every": 0}])
def test_numbers_out_of_range_are_refused(head_task, options):
    with pytest.raises(ConfigError, match="expected at least 1"):
        straight(head_task, **options)


def test_fewer_steps_than_taken_are_refused(head_task):
    state = dataclasses.replace(head_task.new_state(), step=jax.numpy.int32(9))
    with pytest.raises(ConfigError, match="taken 9 already"):
        fit(head_task.step, state, head_task.frozen, head_task.stream(), steps=8)
