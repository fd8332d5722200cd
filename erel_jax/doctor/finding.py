"""What one look at the machine found, and how findings are shown."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "note", "warning", "broken"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: Group heading, e.g. `"versions"`.
        name: What was looked at.
        value: What was found, with units.
        state: `ok`, `note`, `warning` or `broken`.
        advice: What to do about it; empty when there is nothing to do.
    """

    topic: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that was found on this machine."""

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> bool:
        """Whether anything found makes commands fail."""
        return any(finding.state == "broken" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """Exit code of `erel doctor`: 1 when something is broken, else 0."""
        return int(self.broken)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, for `--json` and bug reports."""
        return {"broken": self.broken, "findings": [asdict(finding) for finding in self.findings]}


def print_diagnosis(diagnosis: Diagnosis, console: "Console") -> None:
    """Print findings as one table, then the advice.

    Args:
        diagnosis: What `diagnose` returned.
        console: Where to print.
    """
    from rich.markup import escape
    from rich.table import Table

    style = {"ok": "green", "note": "cyan", "warning": "yellow", "broken": "bold red"}
    table = Table(title="erel doctor", title_justify="left")
    for column in ("topic", "what", "found", "state"):
        table.add_column(column, overflow="fold")
    previous = None
    for finding in diagnosis.findings:
        if previous not in (None, finding.topic):
            table.add_section()
        state = f"[{style[finding.state]}]{finding.state}[/]"
        topic = "" if finding.topic == previous else finding.topic
        table.add_row(topic, escape(finding.name), escape(finding.value), state)
        previous = finding.topic
    console.print(table)
    for finding in diagnosis.findings:
        if finding.advice:
            mark = f"[{style[finding.state]}]{finding.state}[/]"
            console.print(f"{mark} {escape(finding.name)}: {escape(finding.advice)}", soft_wrap=True)
    broken = sum(finding.state == "broken" for finding in diagnosis.findings)
    console.print(f"{broken} broken." if broken else "Nothing is broken. Next: erel bench", soft_wrap=True)


def readable_bytes(count: float) -> str:
    """Write a number of bytes in the decimal unit that keeps it below 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def one_line(error: BaseException) -> str:
    """Write an exception as one line, at most 300 characters of its text."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
