"""The exceptions a person can meet, one family with documented exit codes.

Every public door of the package raises a member of `ErelError` when what it was given cannot be used. The message
says what was got, what was expected and what to do next. The command line prints that message without a traceback
and leaves with the exit code of the class, so that a script can tell a bad option from bad data. Members that
describe bad arguments also derive from `ValueError`, so plain `except ValueError` keeps working. The table of exit
codes is `docs/exit_codes.md`.
"""

import difflib
from collections.abc import Iterable


class ErelError(Exception):
    """Root of the family; catching it catches everything this package raises on purpose."""

    exit_code: int = 1


class ConfigError(ErelError, ValueError):
    """An option, argument, method name or output folder that cannot be used (exit code 2)."""

    exit_code = 2


class DataError(ErelError, ValueError):
    """Input data that is missing, malformed or too damaged to go on (exit code 3)."""

    exit_code = 3


class CheckpointError(ErelError):
    """A checkpoint or weight folder that is sound but does not fit what is asked of it (exit code 4)."""

    exit_code = 4


class CorruptArtifactError(CheckpointError):
    """A stored file that is damaged, incomplete or unsafe to read (exit code 4)."""


class NonFiniteError(ErelError, ArithmeticError):
    """NaN or infinity where a finite number is required (exit code 5)."""

    exit_code = 5


class PreemptedError(ErelError):
    """The run was asked to stop and saved its state; start it again to go on (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name a person probably meant.

    Args:
        name: What was typed.
        known: The names that exist, in the order in which to list them.

    Returns:
        A sentence to append to an error message: the nearest name if there is one, then all known names. The
        comparison ignores case. Empty when `known` is empty.

    Example:
        >>> suggest("lroa", ["full", "lora"])
        "Did you mean 'lora'? Known: full, lora."
    """
    names = list(known)
    if not names:
        return ""
    by_folded = {candidate.casefold(): candidate for candidate in names}
    nearest = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    listing = f"Known: {', '.join(names)}."
    return f"Did you mean {by_folded[nearest[0]]!r}? {listing}" if nearest else listing
