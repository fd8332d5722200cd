"""The folders a run reads and writes: where they are, whether they can be used, and who uses them.

Nothing here knows what is stored. `check_writable` refuses an output folder before hours of work, `RunLock` keeps a
second process out of it, `safe_join` keeps paths that were read from a file inside their folder, and `cache_folder`
says where things that can be made again belong.
"""

import os
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from erel_jax.errors import ConfigError, CorruptArtifactError, ErelError


def cache_folder() -> Path:
    """Return the folder for everything that can be made again.

    Returns:
        `$EREL_CACHE` when set, else `erel_jax` under `$XDG_CACHE_HOME` or `~/.cache`. It may not exist yet.
    """
    if chosen := os.environ.get("EREL_CACHE"):
        return Path(chosen).expanduser()
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root).expanduser() if root else Path.home() / ".cache") / "erel_jax"


def check_writable(folder: str | os.PathLike[str], option: str = "--out") -> Path:
    """Make sure that results can be stored in a folder, before any work is done for them.

    The folder is created when missing and a small file is written and removed, because permission bits alone say
    little (read-only file systems, quotas, network folders). A folder without any write permission bit is refused
    even for a user whom the bits do not stop: its owner said that nothing shall be written there.

    Args:
        folder: The folder meant for output.
        option: What to change it with, for the message.

    Returns:
        The folder.

    Raises:
        ConfigError: It cannot be created or written, or is not a folder.
    """
    folder = Path(folder)
    advice = f"Choose another folder with {option}, or change its permissions."
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(f"{existing} is a file, expected a folder for output. {advice}")
    if existing.stat().st_mode & 0o222 == 0:
        raise ConfigError(f"{existing} is read-only, so {folder} cannot be written. {advice}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".erel-write-test-") as stream:
            stream.write(b"x")
            stream.flush()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror or error}). {advice}") from error
    return folder


class RunLock:
    """Context manager that lets one process at a time write to a run directory.

    The lock is an advisory lock of the operating system on `.erel.lock`, so it vanishes with its process however that
    ends; the file's content (process id and host) only serves the message for the second process.

    Args:
        folder: The run directory; it must exist.

    Raises:
        ConfigError: Another process holds the lock.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / ".erel.lock"
        self._stream: Any = None

    def __enter__(self) -> Self:
        import fcntl

        stream = open(self.path, "a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            stream.close()
            raise ConfigError(
                f"{self.path.parent} is in use by {holder}. Wait for it, stop it, or choose another folder with --out."
            ) from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on host {socket.gethostname()}\n")
        stream.flush()
        self._stream = stream
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def safe_join(
    root: str | os.PathLike[str],
    relative: str,
    *,
    link_root: str | os.PathLike[str] | None = None,
    backslash: bool = False,
    error: type[ErelError] = CorruptArtifactError,
) -> Path:
    """Join a path that came from a file to a folder, refusing to leave that folder.

    Args:
        root: The folder to stay in.
        relative: Untrusted relative path, with `/` between its parts.
        link_root: A second folder into which symbolic links may lead, e.g. the repository folder of the Hugging Face
            cache, whose snapshots are links to blobs. None allows links inside `root` alone.
        backslash: Accept backslashes where they are letters of a name: on POSIX, of names that a listing of `root`
            gave. Elsewhere they part folders, and are refused in any case.
        error: Exception class to raise.

    Returns:
        `root / relative`; the file need not exist.

    Raises:
        CorruptArtifactError: The path is empty, absolute, has `..`, a backslash, a drive or NUL, or a symbolic link in
            it leads out (or the class given as `error`).
    """
    parts = relative.split("/")
    if (
        not relative
        or relative.startswith("/")
        or ("\\" in relative and not (backslash and os.name == "posix"))
        or "\0" in relative
        or ".." in parts
        or ":" in parts[0]
    ):
        raise error(f"Path {relative!r} is refused: expected a relative path that stays inside {root}.")
    path = Path(root) / relative
    allowed = [Path(folder).resolve() for folder in (root, link_root) if folder is not None]
    resolved = path.resolve()
    if not any(resolved.is_relative_to(folder) for folder in allowed):
        raise error(
            f"Path {relative!r} is refused: a symbolic link leads out of {root}. Replace it by the file itself."
        )
    return path
