"""Being asked to stop: SIGTERM and SIGUSR1 set a flag that loops poll, a second signal ends the process at once.

JAX notices preemption only under `jax.distributed`; a plain run would be killed with nothing saved. The flag works with
and without it. Poll it in every loop that lasts (steps, evaluation batches, encoding batches):

    with StopFlag() as stop:
        fit(..., stop=stop)
"""

import os
import signal
import socket
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from erel_jax.errors import ConfigError, PreemptedError


class StopFlag:
    """Context manager that turns termination signals into a flag.

    Leaving the block restores the former handlers. Python runs handlers between bytecodes only, which can be minutes
    away while XLA compiles; so a thread counts the signals as the C handler reports them (`signal.set_wakeup_fd`), sets
    the flag at the first and ends the process with `128 + signal number` at the second.

    Args:
        signals: Signals to catch.

    Attributes:
        requested: Whether a signal has come.
        name: Name of the first one, e.g. `"SIGTERM"`, or None.

    Raises:
        ConfigError: Entered outside the main thread, where Python cannot install handlers.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1)) -> None:
        self.signals = tuple(signals)
        self.name: str | None = None
        self._former: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.name is not None

    def check(self, doing: str) -> None:
        """Raise if a signal has come; for loops that have nothing to save.

        Args:
            doing: What is interrupted, for the message, e.g. `"evaluation"`.

        Raises:
            PreemptedError: A signal has come.
        """
        if self.requested:
            raise PreemptedError(f"{self.name} came during {doing}; finished parts are kept. Run the command again.")

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("StopFlag must be entered in the main thread; enter it there and pass it on.")
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._former_descriptor = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._former = {number: signal.signal(number, self._handle) for number in self.signals}
        self._thread = threading.Thread(target=self._count, name="erel-stop-flag", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_descriptor)
        self._write.close()
        self._thread.join()
        self._read.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._set(number)

    def _count(self) -> None:
        count = 0
        while received := self._read.recv(64):
            for number in received:
                if number in self.signals:
                    count += 1
                    if count > 1:
                        os._exit(128 + number)
                    self._set(number)

    def _set(self, number: int) -> None:
        if self.name is None:
            self.name = signal.Signals(number).name
