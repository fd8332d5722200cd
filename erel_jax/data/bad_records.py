"""Records that had to be left out, counted and listed instead of silently lost.

A job that quietly drops data is worse than one that fails. Readers hand every record they cannot use to one
`BadRecords`; the list is written as `bad_records.jsonl`, one JSON object per line with `id`, `file` and `reason`, and
the job stops when more than a small fraction of the data is bad.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from erel_jax.artifacts import write_text_atomic
from erel_jax.errors import ConfigError, DataError

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class BadRecord:
    """One record that was left out.

    Attributes:
        id: Identifier of the record in its data set.
        file: File (and line, where there is one) it came from.
        reason: One sentence for a person.
    """

    id: str
    file: str
    reason: str


class BadRecords:
    """Collects records that were left out and decides when there are too many.

    Args:
        path: The JSON Lines file to write. Its folder is created when missing.
        max_fraction: Largest tolerated fraction of damaged records, in 0..1.

    Raises:
        ConfigError: `max_fraction` is not in 0..1.
    """

    def __init__(self, path: str | os.PathLike[str], max_fraction: float = 0.01) -> None:
        if not 0 <= max_fraction <= 1:
            raise ConfigError(f"max_fraction is {max_fraction}, expected a fraction in 0..1 such as 0.01.")
        self.path = Path(path)
        self.max_fraction = max_fraction
        self.records: list[BadRecord] = []
        self._damaged: list[BadRecord] = []

    def __len__(self) -> int:
        return len(self.records)

    def add(self, id: str, file: str, reason: str, *, damaged: bool = True) -> None:
        """List one record.

        Args:
            id: Identifier of the record.
            file: Where it came from.
            reason: Why it was left out.
            damaged: Whether it counts toward `max_fraction`. False for a modality that is declared missing, which is
                listed but is no sign of damage.
        """
        self.records.append(BadRecord(id=id, file=file, reason=reason))
        self._damaged += self.records[-1:] if damaged else []

    def finish(self, total: int) -> int:
        """Write the list and stop the job when it is too long.

        Args:
            total: Number of records that were looked at, good and bad.

        Returns:
            Number of records listed.

        Raises:
            DataError: More than `max_fraction` of `total` are damaged. The list has been written; the message shows
                their count and the first of them.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self.path, self.to_jsonl())
        count = len(self._damaged)
        if count > self.max_fraction * total:
            shown = "; ".join(f"{record.id}: {record.reason}" for record in self._damaged[:SHOWN])
            more = "" if count <= SHOWN else f"; and {count - SHOWN} more"
            raise DataError(
                f"{count} of {total} records are damaged, more than {self.max_fraction:.2%}: {shown}{more}. "
                f"All are listed in {self.path}. Repair or remove them and run again."
            )
        return len(self.records)

    def to_jsonl(self) -> str:
        """Return the list as JSON Lines, one object per record, in the order of `add`."""
        return "".join(json.dumps(asdict(record), ensure_ascii=True) + "\n" for record in self.records)
