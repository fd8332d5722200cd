"""One writer at a time: what keeps two processes from changing the same index folder.

The lock is the operating system's, on a file beside the folder (`.name.lock/`), because the folder itself is replaced
by every save. It vanishes with its process however that ends, so a killed writer is no obstacle. Readers need no lock:
they keep the files they opened.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from erel_jax.artifacts import RunLock, recover
from erel_jax.errors import ConfigError


@contextmanager
def only_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock of an index folder, which need not exist yet.

    Raises:
        ConfigError: somebody else holds it; names the process.
    """
    folder = Path(os.path.abspath(folder))
    beside = folder.with_name(f".{folder.name}.lock")
    beside.mkdir(parents=True, exist_ok=True)
    lock = RunLock(beside)
    try:
        lock.__enter__()
    except ConfigError as error:
        raise ConfigError(
            f"{folder} is being written: {error} The index there stays as it is and can be read meanwhile."
        ) from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def restore(folder: str | os.PathLike[str]) -> None:
    """Puts back an index whose writer was killed in the instant between moving the old one away and the new one in."""
    folder = Path(os.path.abspath(folder))
    if not folder.exists() and any(folder.parent.glob(f"{folder.name}.old-*")):
        recover(folder.parent)
