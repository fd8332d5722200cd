"""Who works on which shard: small files that one process creates and keeps alive.

A lease is a file that exactly one process can create. While it works, its holder touches the file now and then. A lease
whose holder has died (on this computer), or that nobody has touched for a while (on another one), may be taken over.
Leases only save work from being done twice; that a shard is stored once is the business of the rename that puts it in
place.
"""

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from erel_jax.artifacts import process_runs
from erel_jax.errors import ConfigError
from erel_jax.folders import RunLock

TIMEOUT_SECONDS = 60.0
BEATS = 6
"""Touches per timeout."""


def create_once(path: Path, text: str) -> bool:
    """Creates a file, whole, if nobody else has: of any number of processes exactly one gets True.

    Args:
        path: the file; its folder must exist.
        text: its content.

    Raises:
        OSError: the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(draft, "x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, path)  # unlike a rename, a link never replaces
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            try:
                with open(path, "x", encoding="utf-8") as stream:
                    stream.write(text)
            except FileExistsError:
                return False
    finally:
        draft.unlink(missing_ok=True)
    return True


class Leases:
    """The leases of one output folder, as one process sees them.

    Args:
        folder: where they lie; created when missing.
        timeout: seconds without a touch after which a lease of another computer counts as abandoned.
    """

    def __init__(self, folder: Path, timeout: float = TIMEOUT_SECONDS) -> None:
        self.folder, self.timeout = folder, timeout
        folder.mkdir(parents=True, exist_ok=True)
        self._seen: dict[str, tuple[int, float]] = {}

    def take(self, name: str) -> "Lease | None":
        """A lease on a name, or None where somebody alive holds it or the folder of leases has gone: all is done.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self.folder / f"{name}.lease"
        try:
            return self._take(path)
        except FileNotFoundError:
            return None

    def _take(self, path: Path) -> "Lease | None":
        lease = Lease(path, self.timeout / BEATS)
        if lease.create():
            return lease
        if not self._is_abandoned(path):
            return None
        try:
            with RunLock(self.folder):
                if not self._is_abandoned(path):  # somebody was here before, and it is a new lease
                    return None
                path.unlink(missing_ok=True)
                return lease if lease.create() else None
        except ConfigError:  # another process takes over something at this moment; come again
            return None

    def holder(self, name: str) -> str:
        """Who holds a name, for messages."""
        try:
            about = json.loads((self.folder / f"{name}.lease").read_text("utf-8"))
            return f"process {about['process']} on host {about['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _is_abandoned(self, path: Path) -> bool:
        """Judged by this computer's clock alone: computers that share a folder need not agree about the time."""
        try:
            touched = path.stat().st_mtime_ns
            about = json.loads(path.read_text("utf-8"))
            if about["host"] == socket.gethostname() and not process_runs(int(about["process"])):
                return True
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):  # being written at this moment, or by a killed process
            touched = -1
        before, since = self._seen.get(path.name, (None, 0.0))
        if before != touched:
            self._seen[path.name] = touched, time.monotonic()
            return False
        return time.monotonic() - since > self.timeout


class Lease:
    """One lease; a context manager that keeps it alive and gives it back."""

    def __init__(self, path: Path, interval: float) -> None:
        self.path, self._interval = path, interval
        self._token = uuid.uuid4().hex
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def create(self) -> bool:
        """Whether the file could be created."""
        about = {"process": os.getpid(), "host": socket.gethostname(), "token": self._token}
        return create_once(self.path, json.dumps(about))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._is_mine():
            self.path.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        try:
            return json.loads(self.path.read_text("utf-8")).get("token") == self._token
        except (OSError, ValueError, AttributeError):
            return False

    def _beat(self) -> None:
        while not self._done.wait(self._interval):
            if not self._is_mine():  # taken over while this process slept
                return
            try:
                os.utime(self.path)
            except OSError:
                return
