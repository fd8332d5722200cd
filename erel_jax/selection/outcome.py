"""What a filter decided: the rows it kept, the rows it removed, and why.

Every filter of this room returns an `Outcome`. Nothing is copied or deleted: an outcome holds row numbers of the data
it saw, one reason for each row that it removed, its settings, and the fingerprint of that data, so that it can be
stored (`save_selection`), replayed and explained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from erel_jax.errors import ConfigError, DataError

KEPT = -1
"""Reason code of a row that stays."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """Rows kept and removed by one filter or by several in sequence.

    Attributes:
        name: name of the filter.
        settings: its settings as JSON values.
        fingerprint: SHA-256 hex digest of the data that it saw.
        kept: int64[K], row numbers in ascending order.
        removed: int64[R], row numbers in ascending order; kept and removed together are all rows.
        reasons: int16[R], index into `reason_names` for each removed row.
        reason_names: names of the reasons.
    """

    name: str
    settings: Mapping[str, Any]
    fingerprint: str
    kept: np.ndarray
    removed: np.ndarray
    reasons: np.ndarray
    reason_names: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of rows that the filter saw."""
        return len(self.kept) + len(self.removed)

    def counts(self) -> dict[str, int]:
        """Number of removed rows by reason; reasons that removed nothing are listed with 0."""
        found = np.bincount(self.reasons, minlength=len(self.reason_names))
        return {name: int(number) for name, number in zip(self.reason_names, found, strict=True)}

    def reason_of(self, row: int) -> str | None:
        """Why a row was removed, or None for a row that was kept."""
        place = int(np.searchsorted(self.removed, row))
        if place == len(self.removed) or self.removed[place] != row:
            return None
        return self.reason_names[self.reasons[place]]

    def describe(self) -> str:
        """One line for a person: how many rows were kept, and the reasons for the others."""
        removed = ", ".join(f"{number} {name}" for name, number in self.counts().items() if number) or "none"
        return f"{self.name}: kept {len(self.kept)} of {self.count} rows; removed: {removed}."


def decide(
    name: str, settings: Mapping[str, Any], fingerprint: str, codes: np.ndarray, reason_names: Sequence[str]
) -> Outcome:
    """Makes an outcome from one reason code per row.

    Args:
        name, settings, fingerprint: as in `Outcome`.
        codes: int[N], index into `reason_names`, or `KEPT`.
        reason_names: names of the reasons.

    Raises:
        DataError: there is no row, or no row would be kept.
    """
    codes = np.asarray(codes)
    if not len(codes):
        raise DataError(f"{name} got no rows, expected at least one. Check what the data was read from.")
    gone = codes != KEPT
    outcome = Outcome(
        name=name,
        settings=dict(settings),
        fingerprint=fingerprint,
        kept=np.flatnonzero(~gone).astype(np.int64),
        removed=np.flatnonzero(gone).astype(np.int64),
        reasons=codes[gone].astype(np.int16),
        reason_names=tuple(reason_names),
    )
    if not len(outcome.kept):
        why = ", ".join(f"{number} {reason}" for reason, number in outcome.counts().items() if number)
        raise DataError(
            f"{name} would remove all {len(codes)} rows ({why}), so nothing would be left to train on. "
            f"Loosen its settings: {dict(settings)}."
        )
    return outcome


def in_sequence(first: Outcome, second: Outcome) -> Outcome:
    """Joins two filters, the second of which saw the rows that the first had kept.

    Args:
        first: outcome on all rows.
        second: outcome on `first.kept`, row k of it being row `first.kept[k]` of all rows.

    Returns:
        An outcome in the row numbers and with the fingerprint of `first`. Reasons are named `filter/reason`; the
        settings hold both filters and the fingerprint of what the second saw.

    Raises:
        ConfigError: the second saw another number of rows than the first had kept.
    """
    if second.count != len(first.kept):
        raise ConfigError(
            f"{second.name} saw {second.count} rows, but {first.name} kept {len(first.kept)}; expected the same. "
            f"Run {second.name} on the rows of `first.kept`."
        )
    steps = [step for outcome in (first, second) for step in _steps(outcome)]
    names = (*_qualified(first), *_qualified(second))
    codes = np.full(first.count, KEPT, np.int64)
    codes[first.removed] = first.reasons
    codes[first.kept[second.removed]] = second.reasons.astype(np.int64) + len(first.reason_names)
    name = " + ".join(str(step["name"]) for step in steps)
    return decide(name, {"steps": steps}, first.fingerprint, codes, names)


def _steps(outcome: Outcome) -> list[dict[str, Any]]:
    if "steps" in outcome.settings:
        return list(outcome.settings["steps"])
    return [{"name": outcome.name, "settings": dict(outcome.settings), "fingerprint": outcome.fingerprint}]


def _qualified(outcome: Outcome) -> list[str]:
    joined = "steps" in outcome.settings
    return [reason if joined else f"{outcome.name}/{reason}" for reason in outcome.reason_names]
