"""What the scripts say of a mistake: one line and an exit code in place of a traceback."""

import contextlib
import os
import sys
from collections.abc import Iterator

from erel_jax.errors import ErelError


@contextlib.contextmanager
def mistakes_in_one_line(name: str, stopped: str = "run the same command again.") -> Iterator[None]:
    """Exit codes are those of `erel` (docs/exit_codes.md); with `EREL_TRACEBACK` set, errors stay as they are.

    Args:
        name: of the script.
        stopped: what to do after an interrupt.
    """
    try:
        yield
    except ErelError as failure:
        if os.environ.get("EREL_TRACEBACK"):
            raise
        _quit(f"{name}: {failure}", failure.exit_code)
    except OSError as failure:
        if os.environ.get("EREL_TRACEBACK"):
            raise
        _quit(f"{name}: {failure}. Check the path, free space and permissions; {stopped}", 1)
    except KeyboardInterrupt:
        _quit(f"{name}: stopped; {stopped}", 130)


def _quit(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)
