"""Trains one adapted model for a bench job and measures what that cost.

Whatever the task, training is: split the parameters, build Adam and the one compiled step, run epochs with
checkpoints, keep the best epoch by the validation metric (or the last), and read time, memory, FLOPs and energy off
what ran.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from erel_jax import module, tree
from erel_jax.artifacts import ArtifactDir, verify_manifest, write_text_atomic
from erel_jax.benchmark.messages import Messenger
from erel_jax.errors import CheckpointError, PreemptedError
from erel_jax.profiling import EnergyMeter, PeakMeter, compiled_bytes, count_flops
from erel_jax.training import Checkpoints, StopFlag, adam, fit, new_state, train_step

BEST, SPENT = "best", "spent.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What to train and for how long.

    Attributes:
        params: the whole parameter tree, frozen parts and stored states included.
        trainable: patterns that train.
        learning_rates: (pattern, rate) pairs.
        loss_fn: see `training.train_step`.
        batches: see `training.fit`.
        steps_per_epoch, epochs: the plan.
        seed: of the step's random key.
        seconds: stop after this much training, evaluation not counted; None runs the plan.
        schedule: "constant", or "cosine" with a tenth of the steps as warm-up.
        clip_norm: of the gradient, None for none.
        evaluate: validation metric of parameters, higher is better; None keeps the last epoch.
        patience: stop after so many epochs without a better one.
        folder: where checkpoints live until the job is done, one folder in it per fingerprint: what an interrupted run
            with other settings left is neither continued nor in the way.
        fingerprint: of the run, for its checkpoints.
    """

    params: Any
    trainable: tuple[str, ...]
    learning_rates: tuple[tuple[str, float], ...]
    loss_fn: Callable[..., Any]
    batches: Any
    steps_per_epoch: int
    epochs: int
    seed: int
    seconds: float | None
    folder: Path
    fingerprint: Mapping[str, Any]
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float | None = None
    evaluate: Callable[[Any], float] | None = None
    patience: int = 10

    @property
    def steps(self) -> int:
        """Steps of the whole plan."""
        return self.steps_per_epoch * self.epochs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model and its costs, under the names of `benchmark.record.Record`.

    Attributes:
        params: all parameters, the chosen epoch's trainable ones among them.
        costs: record fields.
        notes: remarks for the report.
        unavailable: reasons for null fields.
    """

    params: Any
    costs: dict[str, Any]
    notes: list[str]
    unavailable: dict[str, str]


def train(training: Training, messenger: Messenger) -> Trained:
    """Runs a training plan; resumes from its checkpoints when there are some.

    Raises:
        PreemptedError: asked to stop; saved.
        NonFiniteError: the loss stayed non-finite.
    """
    home = training.folder
    training = dataclasses.replace(training, folder=home / _digest(training.fingerprint))
    trainable, frozen = tree.partition(training.params, training.trainable)
    warmup = training.steps // 10 if training.schedule == "cosine" else 0
    optimizer = adam(
        training.learning_rates,
        schedule=training.schedule,
        total_steps=training.steps,
        warmup_steps=warmup,
        clip_norm=training.clip_norm,
    )
    step = train_step(training.loss_fn, optimizer)
    state = new_state(trainable, optimizer, jax.random.key(training.seed))
    checkpoints = Checkpoints(training.folder, training.fingerprint)
    restored = checkpoints.restore(state)
    if restored is not None:
        state = restored.state
        training.batches.restore(restored.stream_state)
        messenger.note(f"resumed at step {restored.step} of {training.steps}")
    run = _Epochs(training, messenger, step, frozen, checkpoints)
    if restored is not None:
        run.go_on_from(restored.step)
    with StopFlag() as stop, EnergyMeter() as energy:
        peak = PeakMeter()
        state = run.go(state, stop)
        measured = peak.read()
    batch = next(training.batches)[0]
    flops = count_flops(step.fn, state, frozen, batch).total
    params = tree.merge(run.best_or(state.trainable), frozen)
    costs, unavailable = _costs(run, measured, energy, flops)
    costs["trainable_parameters"] = module.count(trainable)
    compiled = compiled_bytes(step)
    notes = list(run.notes)
    if compiled.bytes is not None:
        notes.append(f"compiled step: {compiled.bytes / 2**20:.0f} MiB (arguments, results and temporaries)")
    shutil.rmtree(training.folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # what another run left stays
        home.rmdir()
    return Trained(params=params, costs=costs, notes=notes, unavailable=unavailable)


class _Epochs:
    """Runs `fit` epoch by epoch and keeps the best parameters."""

    def __init__(self, training: Training, messenger: Messenger, step: Any, frozen: Any, checkpoints: Checkpoints):
        self.training, self.messenger, self.step = training, messenger, step
        self.frozen, self.checkpoints = frozen, checkpoints
        self.losses: list[float] = []
        self.step_seconds: list[float] = []
        self.train_seconds = self.compile_seconds = 0.0
        self.recompiles = self.started = self.steps_taken = self.skipped = 0
        self.notes: list[str] = []
        self.best: tuple[float, int] = (-np.inf, 0)

    def go(self, state: Any, stop: StopFlag) -> Any:
        plan = self.training
        self._load_best()
        self.started = done = int(state.step)
        if plan.evaluate is not None and done and done % plan.steps_per_epoch == 0:
            # A killed run may have saved an epoch without judging it; judging one again changes nothing.
            self._judge(state, done // plan.steps_per_epoch)
        chunk = plan.steps_per_epoch if plan.evaluate is not None else plan.steps
        chunk = min(chunk, 25) if plan.seconds is not None else chunk
        since_best = done // plan.steps_per_epoch - self.best[1] if plan.evaluate is not None else 0
        while done < plan.steps:
            until = (
                min(done + chunk, plan.steps, (done // plan.steps_per_epoch + 1) * plan.steps_per_epoch)
                if plan.evaluate is not None
                else min(done + chunk, plan.steps)
            )
            state = self._fit(state, until, stop)
            done = until
            out_of_time = plan.seconds is not None and self.train_seconds >= plan.seconds
            if plan.evaluate is not None and (done % plan.steps_per_epoch == 0 or out_of_time):
                since_best = 0 if self._judge(state, -(-done // plan.steps_per_epoch)) else since_best + 1
            if out_of_time and done < plan.steps:
                self.notes.append(
                    f"stopped at the limit of {plan.seconds:.0f} s of training after {done} of {plan.steps} steps"
                )
                break
            if since_best >= plan.patience:
                self.notes.append(f"stopped after {plan.patience} epochs without a better validation metric")
                break
        self.steps_taken = done
        return state

    def go_on_from(self, step: int) -> None:
        """Counts the seconds that an interrupted run spent, so that resuming does not make a method look cheap."""
        try:
            spent = float(json.loads((self.training.folder / SPENT).read_bytes())["train_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            self.notes.append(f"resumed at step {step}; the seconds, losses and energy before it are not counted")
            return
        self.train_seconds = spent
        self.notes.append(f"resumed at step {step}; seconds include the {spent:.1f} s before it, losses and energy not")

    def _fit(self, state: Any, until: int, stop: StopFlag) -> Any:
        plan = self.training
        begun = stepped = time.perf_counter()
        compiled = self.step.compile_seconds

        def tell(progress: Any) -> None:
            nonlocal stepped
            stepped = time.perf_counter()
            self.messenger.progress("training", progress.step, plan.steps)

        try:
            result = fit(
                self.step,
                state,
                self.frozen,
                plan.batches,
                steps=until,
                checkpoint=self.checkpoints,
                stop=stop,
                on_progress=tell,
            )
        except PreemptedError:
            # As below, neither compilation nor saving is training, even where a stop comes after the first step.
            stepping = max(0.0, stepped - begun - (self.step.compile_seconds - compiled))
            spent = {"train_seconds": self.train_seconds + stepping}
            write_text_atomic(plan.folder / SPENT, json.dumps(spent) + "\n")
            raise
        self.losses += result.losses
        # `fit` leaves out its first step, which may compile; where that is its only one and did not, it counts.
        alone = not result.step_seconds and not result.compile_seconds and result.steps_done
        self.step_seconds += [result.train_seconds - result.checkpoint_seconds] if alone else result.step_seconds
        self.train_seconds += result.train_seconds - result.checkpoint_seconds
        self.compile_seconds += result.compile_seconds
        self.recompiles = self.step.compilations - 1
        self.skipped = result.skipped
        return result.state

    def _judge(self, state: Any, epoch: int) -> bool:
        plan = self.training
        assert plan.evaluate is not None
        value = plan.evaluate(tree.merge(state.trainable, self.frozen))
        if not value > self.best[0]:  # NaN is not better than anything
            return False
        self.best = (value, epoch)
        arrays = {name: np.asarray(leaf) for name, leaf in tree.paths(state.trainable).items()}
        metadata = {"value": float(value), "epoch": epoch}
        with ArtifactDir(plan.folder / BEST, kind=BEST, metadata=metadata, overwrite=True) as artifact:
            np.savez(artifact.file("params.npz"), **arrays)  # type: ignore[arg-type]
        return True

    def _load_best(self) -> None:
        try:
            manifest = verify_manifest(self.training.folder / BEST, kind=BEST)
        except CheckpointError:
            return
        if self.checkpoints.latest() is not None:
            self.best = (float(manifest.metadata["value"]), int(manifest.metadata["epoch"]))

    def best_or(self, trainable: Any) -> Any:
        """The best epoch's parameters where epochs were judged, the given last ones otherwise."""
        if self.training.evaluate is None or self.best[1] == 0:
            return trainable
        self.notes.append(f"best epoch by validation: {self.best[1]}")
        with np.load(self.training.folder / BEST / "params.npz", allow_pickle=False) as arrays:
            return tree.map_with_path(lambda path, leaf: jax.numpy.asarray(arrays[path]), trainable)


def _costs(run: _Epochs, peak: Any, energy: EnergyMeter, flops: float) -> tuple[dict[str, Any], dict[str, str]]:
    quartiles = np.percentile(run.step_seconds, [25, 50, 75]) if run.step_seconds else None
    joules = energy.energy
    unavailable = {}
    if quartiles is None:
        reason = "the only step also compiled"
        unavailable |= {"train_step_seconds": reason, "train_step_seconds_spread": reason}
    if joules.joules is None:
        unavailable["energy_joules"] = joules.source
    if peak.bytes is None:
        unavailable["peak_bytes"] = unavailable["peak_bytes_source"] = peak.source
    if not run.train_seconds:
        unavailable["train_seconds"] = "resumed after the last step, and what was spent before is not known"
    history = run.losses
    every = max(1, len(history) // 100)
    costs = {
        "train_seconds": run.train_seconds or None,
        "train_step_seconds": None if quartiles is None else float(quartiles[1]),
        "train_step_seconds_spread": None if quartiles is None else float(quartiles[2] - quartiles[0]),
        "train_flops_per_step": float(flops),
        "peak_bytes": peak.bytes,
        "peak_bytes_source": peak.source if peak.bytes is not None else None,
        "compile_seconds": run.compile_seconds,
        "recompiles_after_warmup": run.recompiles,
        "energy_joules": joules.joules,
        "steps": run.steps_taken,
        "epochs": run.steps_taken / run.training.steps_per_epoch,
        "learning_rate": max(rate for _, rate in run.training.learning_rates),
        "loss_history": tuple(
            (run.started + i + 1, float(v)) for i, v in enumerate(history) if i % every == 0 and np.isfinite(v)
        ),
    }
    if run.skipped:
        run.notes.append(f"{run.skipped} steps skipped because their loss or gradient was not finite")
    return costs, unavailable


def _digest(fingerprint: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]


def run_fingerprint(**values: Any) -> dict[str, Any]:
    """JSON-ready identity of a run for its checkpoints."""
    return json.loads(json.dumps(values, default=str))
