"""Training runs of a bench job, on a least-squares problem whose optimum is known."""

import json
import os
import signal
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.benchmark import training_run
from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.record import Record
from erel_jax.benchmark.training_run import Training, run_fingerprint, train
from erel_jax.errors import PreemptedError

TARGET = np.array([1.0, -2.0, 0.5], np.float32)
STEPS_PER_EPOCH, EPOCHS = 4, 5


class Batches:
    """Batch k is a function of k alone; `stop_at` asks the process to end when that batch is drawn."""

    def __init__(self, stop_at=None, bad=()):
        self.next, self.stop_at, self.bad = 0, stop_at, bad

    def __next__(self):
        if self.next == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = np.random.default_rng(self.next).normal(size=(8, 3)).astype(np.float32)
        y = x @ TARGET
        if self.next in self.bad:
            y[0] = np.nan
        self.next += 1
        return {"x": x, "y": y}, list(range(8))

    def state(self):
        return {"next": self.next}

    def restore(self, state):
        self.next = state["next"]


def loss_fn(params, batch, key):
    x = batch["x"] + 0.05 * jax.random.normal(key, batch["x"].shape)
    return jnp.mean(jnp.square(x @ params["fit"]["w"] + params["frozen"]["b"] - batch["y"])), {}


PARAMS = {"fit": {"w": jnp.zeros(3)}, "frozen": {"b": jnp.zeros(())}}


def plan(folder, **changes):
    values = dict(
        params=PARAMS,
        trainable=("fit/.*",),
        learning_rates=(("fit/.*", 0.1),),
        loss_fn=loss_fn,
        batches=Batches(),
        steps_per_epoch=STEPS_PER_EPOCH,
        epochs=EPOCHS,
        seed=0,
        seconds=None,
        folder=folder,
        fingerprint=run_fingerprint(method="least squares", folder=folder),
    )
    return Training(**{**values, **changes})


def run(folder, **changes):
    return train(plan(folder, **changes), Messenger())


class Validation:
    """Gives listed values epoch by epoch and remembers what it was given; an exception in the list is raised."""

    def __init__(self, values):
        self.values, self.seen = iter(values), []

    def __call__(self, params):
        self.seen.append(jax.device_get(params))
        value = next(self.values)
        if isinstance(value, Exception):
            raise value
        return value


def test_it_learns_and_reports_every_cost(tmp_path):
    trained = run(tmp_path / "run", epochs=20, schedule="cosine", clip_norm=10.0)
    np.testing.assert_allclose(trained.params["fit"]["w"], TARGET, atol=0.2)
    costs = trained.costs
    assert costs["trainable_parameters"] == 3 and costs["learning_rate"] == 0.1
    assert (costs["steps"], costs["epochs"], costs["recompiles_after_warmup"]) == (80, 20.0, 0)
    steps = [step for step, _ in costs["loss_history"]]
    assert steps == list(range(1, 81)) and costs["loss_history"][-1][1] < costs["loss_history"][0][1]
    positive = ("train_seconds", "train_step_seconds", "train_step_seconds_spread", "train_flops_per_step")
    assert all(costs[name] > 0 for name in (*positive, "compile_seconds"))
    # x @ w and its gradient are 8 x 3 products; less than that would be a miscount.
    assert costs["train_flops_per_step"] >= 2 * 2 * 8 * 3
    declared = set(Record.__dataclass_fields__)
    assert set(costs) <= declared and set(trained.unavailable) <= declared
    assert all(costs[name] is None for name in trained.unavailable)
    assert not (tmp_path / "run").exists()
    np.testing.assert_array_equal(PARAMS["fit"]["w"], np.zeros(3))


# Epoch 3 cannot be judged, and epoch 4 is as good as epoch 2: the first of the best is kept.
VALUES = [0.1, 0.7, float("nan"), 0.7, 0.2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run and its parameters after each epoch."""
    validation = Validation(VALUES)
    trained = run(tmp_path_factory.mktemp("whole"), evaluate=validation)
    return SimpleNamespace(trained=trained, epochs=[params["fit"]["w"] for params in validation.seen])


def test_the_best_epoch_is_kept(whole):
    assert len(whole.epochs) == EPOCHS and len({w.tobytes() for w in whole.epochs}) == EPOCHS
    np.testing.assert_array_equal(whole.trained.params["fit"]["w"], whole.epochs[1])
    assert "best epoch by validation: 2" in whole.trained.notes
    np.testing.assert_array_equal(whole.trained.params["frozen"]["b"], 0.0)


def test_patience_counts_epochs_without_a_better_one(tmp_path):
    validation = Validation([0.1, 0.5, 0.4, 0.3, 0.9])
    trained = run(tmp_path / "run", evaluate=validation, patience=2)
    assert len(validation.seen) == 4 and trained.costs["steps"] == 4 * STEPS_PER_EPOCH
    assert "stopped after 2 epochs without a better validation metric" in trained.notes
    np.testing.assert_array_equal(trained.params["fit"]["w"], validation.seen[1]["fit"]["w"])


@pytest.mark.parametrize("judged", [False, True])
def test_a_time_limit_ends_training_and_says_so(tmp_path, judged):
    validation = Validation([0.3] * EPOCHS)
    trained = run(tmp_path / "run", seconds=1e-6, epochs=20, evaluate=validation if judged else None)
    taken = STEPS_PER_EPOCH if judged else 25
    assert trained.costs["steps"] == taken and trained.costs["epochs"] == taken / STEPS_PER_EPOCH
    assert any(note.startswith("stopped at the limit of 0 s") and f"{taken} of 80" in note for note in trained.notes)
    assert len(validation.seen) == judged


@pytest.mark.parametrize(("stop_at", "judged"), [(6, False), (9, True)])
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(tmp_path, whole, stop_at, judged):
    def evaluation(start=0):
        return {"evaluate": Validation(VALUES[start:])} if judged else {}

    with pytest.raises(PreemptedError):
        run(tmp_path / "run", batches=Batches(stop_at), **evaluation())
    resumed = run(tmp_path / "run", **evaluation(start=2))
    np.testing.assert_array_equal(resumed.params["fit"]["w"], whole.epochs[1 if judged else -1])
    assert resumed.costs["steps"] == whole.trained.costs["steps"]
    assert any("resumed at step" in note for note in resumed.notes)
    later = dict(resumed.costs["loss_history"])
    assert later == {step: loss for step, loss in whole.trained.costs["loss_history"] if step >= min(later)}
    assert 1 < min(later) <= stop_at + 1 and max(later) == STEPS_PER_EPOCH * EPOCHS


@pytest.mark.parametrize("epoch", [2, EPOCHS])
def test_a_run_killed_before_an_epoch_was_judged_judges_it_when_it_goes_on(tmp_path, whole, epoch):
    values = [0.1] * EPOCHS
    values[epoch - 1] = 0.9
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "run", evaluate=Validation([*values[: epoch - 1], RuntimeError("killed")]))
    resumed = run(tmp_path / "run", evaluate=Validation(values[epoch - 1 :]))
    np.testing.assert_array_equal(resumed.params["fit"]["w"], whole.epochs[epoch - 1])
    assert all(resumed.costs[name] is None or resumed.costs[name] > 0 for name in ("train_seconds", "energy_joules"))
    assert {name for name, value in resumed.costs.items() if value is None} <= resumed.unavailable.keys()


def test_skipped_steps_are_noted_and_absent_from_the_history(tmp_path):
    trained = run(tmp_path / "run", batches=Batches(bad=(3,)))
    assert "1 steps skipped because their loss or gradient was not finite" in trained.notes
    assert [step for step, _ in trained.costs["loss_history"]] == [s for s in range(1, 21) if s != 4]


def test_a_single_step_has_no_step_time_and_says_why(tmp_path):
    trained = run(tmp_path / "run", epochs=1, steps_per_epoch=1)
    assert trained.costs["steps"] == 1
    if trained.costs["train_step_seconds"] is None:
        assert trained.unavailable["train_step_seconds"]
    else:
        assert np.isfinite(trained.costs["train_step_seconds"])


def test_fingerprints_are_json(tmp_path):
    assert run_fingerprint(folder=tmp_path, n=1) == {"folder": str(tmp_path), "n": 1}


def test_seconds_before_a_stop_are_those_of_steps_alone(tmp_path, monkeypatch):
    """Compiling and saving are no training: a method that was interrupted shall not look dearer for them."""
    save = training_run.Checkpoints.save

    def slowly(*arguments, **options):
        time.sleep(1.0)
        return save(*arguments, **options)

    def traced_slowly(*arguments):
        time.sleep(1.0)
        return loss_fn(*arguments)

    monkeypatch.setattr(training_run.Checkpoints, "save", slowly)
    options = {"loss_fn": traced_slowly, "seconds": None}
    with pytest.raises(PreemptedError):
        run(tmp_path / "run", batches=Batches(stop_at=3), **options)
    (spent,) = (tmp_path / "run").glob(f"*/{training_run.SPENT}")
    assert 0 < json.loads(spent.read_text())["train_seconds"] < 0.8
    monkeypatch.setattr(training_run.Checkpoints, "save", save)
    trained = run(tmp_path / "run", **options)
    assert trained.costs["train_seconds"] < 0.9 < trained.costs["compile_seconds"]
    assert any("resumed at step" in note for note in trained.notes)
