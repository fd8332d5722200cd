"""Batches whose loss or gradient was not finite: which they were, and when there are too many of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.errors import NonFiniteError

NONFINITE_FILE = "nonfinite_batches.jsonl"


@dataclass
class Skips:
    """The batches that were not finite: all of them in a file, those of the present row for the error.

    Attributes:
        folder: Where `nonfinite_batches.jsonl` is appended to, None for nowhere.
        limit: Give up after so many in a row.
        row: Entries of the present row.
    """

    folder: Path | None
    limit: int
    row: list[dict[str, Any]] = field(default_factory=list)

    def note(self, step: int, host: Mapping[str, Any], ids: Sequence[Any]) -> None:
        """Takes note of a step.

        Args:
            step: Index of the step, counted from 0.
            host: The step's metrics on the host.
            ids: Ids of the batch's examples.

        Raises:
            NonFiniteError: It was the last of `limit` in a row.
        """
        if host["finite"]:
            self.row.clear()
            return
        norm, loss = float(host["gradient_norm"]), float(host["loss"])
        entry = {"step": step, "loss": str(loss), "gradient_norm": str(norm), "ids": [_json_id(i) for i in ids]}
        self.row.append(entry)
        if self.folder is not None:
            with open(self.folder / NONFINITE_FILE, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        if int(host["consecutive_skips"]) >= self.limit:
            raise NonFiniteError(self._message(int(host["consecutive_skips"]), step))

    def _message(self, count: int, last: int) -> str:
        shown = "; ".join(f"step {entry['step']}: {', '.join(map(str, entry['ids'][:8]))}" for entry in self.row[-10:])
        where = f" All ids are in {self.folder / NONFINITE_FILE}." if self.folder is not None else ""
        return (
            f"loss or gradient was not finite {count} times in a row, steps {last - count + 1} to {last}. Parameters "
            f"are as before step {last - count + 1}. Batches with ids (first 8): {shown}.{where} "
            "Look at these examples, lower the learning rate, or clip gradients."
        )


def _json_id(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | int) else str(value)
