"""The training loop of every method.

`fit` feeds batches to a step until the state has taken `steps` of them. It saves checkpoints, honors a request to stop,
gives up when too many batches in a row are not finite, and keeps the times that the report shows. One step is in
flight at a time: while the device computes it, the host prepares the next batch, then waits for the loss. So a step's
time runs from dispatch to the loss on the host, and is honest where work is dispatched asynchronously.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from erel_jax.errors import ConfigError, PreemptedError
from erel_jax.sharding import Step
from erel_jax.training.checkpoint import Checkpoints
from erel_jax.training.feed import Batches, Feed
from erel_jax.training.signals import StopFlag
from erel_jax.training.skips import Skips
from erel_jax.training.state import TrainState
from erel_jax.training.step import RESERVED


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What `fit` tells its caller after each step.

    Attributes:
        step: Steps taken in all.
        steps: Steps wanted.
        loss: The latest loss.
        skipped: Steps skipped in all.
        seconds: Wall seconds of the latest step.
        seconds_left: Estimate from the median step, None before the second step.
    """

    step: int
    steps: int
    loss: float
    skipped: int
    seconds: float
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a finished training returns.

    Attributes:
        state: The final state.
        losses: Every `history_every`-th loss of this call, as they came (NaN where skipped), the first included.
        step_seconds: Wall seconds of each step after the first one of this call, from dispatch to loss; the next batch
            is prepared meanwhile, so a step whose data take longer than its computing shows the data's time.
        compile_seconds: Lowering and compiling in this call.
        train_seconds: Wall seconds of the call less `compile_seconds`; data and checkpoints are included.
        data_seconds: Wall seconds in which the host made batches, overlapping with `step_seconds`.
        checkpoint_seconds: Wall seconds spent saving.
        steps_done: Steps taken in this call.
        skipped: Steps skipped because they were not finite, since step 0.
        recompiles_after_warmup: Programs compiled after the first step of this call; 0 is right.
    """

    state: TrainState
    losses: list[float]
    step_seconds: list[float]
    compile_seconds: float
    train_seconds: float
    data_seconds: float
    checkpoint_seconds: float
    steps_done: int
    skipped: int
    recompiles_after_warmup: int

    @property
    def median_step_seconds(self) -> float | None:
        """Median of `step_seconds`, None when there is none."""
        return float(np.median(self.step_seconds)) if self.step_seconds else None

    @property
    def step_seconds_iqr(self) -> float | None:
        """Distance of the quartiles of `step_seconds`, None when there is none."""
        return float(np.subtract(*np.percentile(self.step_seconds, [75, 25]))) if self.step_seconds else None


def fit(
    step: Step,
    state: TrainState,
    frozen: Any,
    batches: Batches,
    *,
    steps: int,
    checkpoint: Checkpoints | None = None,
    checkpoint_every: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: StopFlag | None = None,
    max_consecutive_skips: int = 10,
    history_every: int = 1,
    report_folder: str | os.PathLike[str] | None = None,
) -> FitResult:
    """Trains until `state.step` is `steps`.

    Args:
        step: from `train_step`.
        state: from `new_state` or `Checkpoints.restore`, placed for the step. It is used up: its memory is reused.
        frozen: the frozen half of the parameters, or None, placed for the step.
        batches: all of one shape. After a restore, the caller has restored it too.
        steps: steps in all, those before a resume included.
        checkpoint: where to save, at the end and when asked to stop; None saves nothing.
        checkpoint_every: save every so many steps too.
        on_progress: called after each step.
        stop: polled before each step.
        max_consecutive_skips: give up after so many steps in a row that were not finite.
        history_every: keep every so-manieth loss.
        report_folder: folder of `nonfinite_batches.jsonl`, the checkpoints' folder by default; without either, the ids
            are in the error's message alone.

    Returns:
        A `FitResult`.

    Raises:
        PreemptedError: asked to stop; the state is saved where there is a checkpoint folder (exit code 75).
        NonFiniteError: too many skipped steps in a row; names steps and ids. Parameters are not saved again.
        DataError: the stream ended early.
        ConfigError: a number out of range, or a checkpoint folder that holds later steps already.
    """
    start = int(jax.device_get(state.step))
    _check_arguments(steps, start, checkpoint_every, max_consecutive_skips, history_every)
    folder = report_folder if report_folder is not None else getattr(checkpoint, "folder", None)
    skips = Skips(None if folder is None else Path(folder), max_consecutive_skips)
    run = _Run(step, frozen, start, steps, Feed(batches, state.step.sharding), _Saver(checkpoint, start), skips)
    state = run.go(state, stop, checkpoint_every, on_progress)
    return run.result(state, history_every)


@dataclass
class _Run:
    """The moving parts of one call of `fit`."""

    step: Step
    frozen: Any
    start: int
    steps: int
    feed: Feed
    saver: "_Saver"
    skips: Skips
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    programs: int = 0
    begun: float = field(default_factory=time.perf_counter)
    compile_seconds: float = 0.0

    def go(
        self,
        state: TrainState,
        stop: StopFlag | None,
        checkpoint_every: int | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> TrainState:
        self.programs, compiled = self.step.compilations, self.step.compile_seconds
        following = self.feed.take() if self.start < self.steps else None
        for number in range(self.start, self.steps):
            if stop is not None and stop.requested:
                self._preempt(stop, number, state)
            assert following is not None
            batch, ids = following
            last = number + 1 == self.steps
            begun = time.perf_counter()
            state, metrics = self.step(state, self.frozen, batch)
            if number == self.start:
                self.programs = self.step.compilations
            following = None if last else self.feed.take()
            host = jax.device_get({name: metrics[name] for name in RESERVED})
            self.seconds.append(time.perf_counter() - begun)
            self.losses.append(float(host["loss"]))
            self.skips.note(number, host, ids)
            if on_progress is not None:
                on_progress(self._progress(number + 1, host))
            if last or (checkpoint_every and (number + 1) % checkpoint_every == 0):
                self.saver.save(number + 1, state, self.feed.batches.state() if last else self.feed.position)
        self.compile_seconds = self.step.compile_seconds - compiled
        return state

    def result(self, state: TrainState, history_every: int) -> FitResult:
        return FitResult(
            state=state,
            losses=self.losses[::history_every],
            step_seconds=self.seconds[1:],
            compile_seconds=self.compile_seconds,
            train_seconds=time.perf_counter() - self.begun - self.compile_seconds,
            data_seconds=self.feed.seconds,
            checkpoint_seconds=self.saver.seconds,
            steps_done=self.steps - self.start,
            skipped=int(jax.device_get(state.skipped)),
            recompiles_after_warmup=self.step.compilations - self.programs,
        )

    def _preempt(self, stop: StopFlag, taken: int, state: TrainState) -> None:
        """Saves before the batch that is waiting, and leaves."""
        said = f"{stop.name} came after {taken} of {self.steps} steps"
        if self.saver.checkpoint is None:
            raise PreemptedError(f"{said}; there is no checkpoint folder to save in.")
        self.saver.save(taken, state, self.feed.position)
        raise PreemptedError(
            f"{said}; saved in {self.saver.checkpoint.path(taken)}. Run the same command again to go on."
        )

    def _progress(self, taken: int, host: Mapping[str, Any]) -> Progress:
        later = self.seconds[1:][-50:]
        return Progress(
            step=taken,
            steps=self.steps,
            loss=float(host["loss"]),
            skipped=int(host["skipped"]),
            seconds=self.seconds[-1],
            seconds_left=float(np.median(later)) * (self.steps - taken) if later else None,
        )


class _Saver:
    """Saves each step at most once and adds up the time."""

    def __init__(self, checkpoint: Checkpoints | None, start: int) -> None:
        self.checkpoint = checkpoint
        self.saved: int | None = None
        self.seconds = 0.0
        if checkpoint is not None:
            checkpoint.refuse_later(start)
            self.saved = start if start in checkpoint.steps() else None

    def save(self, step: int, state: TrainState, position: dict[str, Any] | None) -> None:
        if self.checkpoint is None or self.saved == step:
            return
        begun = time.perf_counter()
        self.checkpoint.save(step, state, position)
        self.saved = step
        self.seconds += time.perf_counter() - begun


def _check_arguments(steps: int, start: int, every: int | None, limit: int, history_every: int) -> None:
    if steps < start:
        raise ConfigError(f"got steps={steps}, but the state has taken {start} already; ask for more steps.")
    if every is not None and every < 1:
        raise ConfigError(f"got checkpoint_every={every}, expected at least 1 or None.")
    if limit < 1 or history_every < 1:
        raise ConfigError(f"got max_consecutive_skips={limit}, history_every={history_every}; expected at least 1.")
