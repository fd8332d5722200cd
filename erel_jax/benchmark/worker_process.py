"""One worker process under the runner's care: signals reach it once, and it never outlives the runner's interest in it.

The worker runs in a session of its own, so Ctrl-C and signals to the terminal's process group reach the runner alone,
which passes one SIGTERM on. The worker then saves and ends with exit code 75 (or at once, outside of training).
"""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from types import FrameType
from typing import IO, Any, Self

from erel_jax.benchmark.messages import parse
from erel_jax.errors import PreemptedError

GRACE_SECONDS = 120.0


class WorkerSignals:
    """Context manager around all jobs of a run: SIGTERM and SIGUSR1 stop the worker at work, and then the run.

    A second signal kills the worker and ends this process with `128 + number`.

    Attributes:
        name: name of the first signal that came, or None.
        process: the worker at work, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.process: subprocess.Popen[str] | None = None
        self._former: dict[int, Any] = {}

    def check(self, doing: str) -> None:
        """Raises `PreemptedError` if a signal has come."""
        if self.name is not None:
            raise PreemptedError(
                f"{self.name} came during {doing}; what is finished is kept. Run the same command again to continue."
            )

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        process = self.process
        if self.name is not None:
            if process is not None:
                process.kill()
            os._exit(128 + number)
        self.name = signal.Signals(number).name
        if process is not None:
            process.terminate()


def run_worker(
    command: Sequence[str],
    environment: dict[str, str],
    log: IO[bytes],
    signals: WorkerSignals,
    show: Callable[[dict], None],
) -> tuple[int, dict]:
    """Runs a worker to its end.

    Args:
        command: what to run.
        environment: its environment.
        log: where its standard error goes.
        signals: passes termination signals on.
        show: called with every message.

    Returns:
        Its exit code (minus the signal's number where one ended it) and its last error message, or {}.
    """
    error: dict = {}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
    )
    signals.process = process
    try:
        if signals.name is not None:  # it came before there was a process to pass it on to
            process.terminate()
        assert process.stdout is not None
        for line in process.stdout:
            message = parse(line)
            error = message if "error" in message else error
            show(message)
        return process.wait(), error
    finally:
        signals.process = None
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Leaves no worker behind, whatever interrupted the runner; it may save first."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
