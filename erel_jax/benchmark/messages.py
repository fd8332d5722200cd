"""What a worker process tells the runner: one JSON object per line on standard output.

`{"stage": …, "done": n, "total": m}` moves the progress bar, `{"note": …}` prints a line, and
`{"error": …, "exit_code": c}` is the last word of a worker that could not go on.
"""

import json
import sys
import time
from collections.abc import Callable

Report = Callable[[str, int, int], None]


class Messenger:
    """Writes messages to standard output; progress at most ten times a second."""

    def __init__(self) -> None:
        self._last = 0.0

    def progress(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` units of a stage are finished; the first and the last are always sent."""
        now = time.monotonic()
        if done not in (0, total) and now - self._last < 0.1:
            return
        self._last = now
        self._send({"stage": stage, "done": done, "total": total})

    def note(self, text: str) -> None:
        """A line for the person who watches."""
        self._send({"note": text})

    def error(self, text: str, exit_code: int) -> None:
        """The worker's last word."""
        self._send({"error": text, "exit_code": exit_code})

    @staticmethod
    def _send(message: dict) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def parse(line: str) -> dict:
    """A message from a line; anything else a library printed becomes an empty message."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
