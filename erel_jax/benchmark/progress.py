"""Progress of a bench run: bars with time left on a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_EVERY_SECONDS = 10.0


class RunProgress:
    """Shows the jobs of a run: one bar for the run, one for the stage at work.

    The time left of the run is the mean time of the jobs done so far times the jobs to come, less what the current
    one has used; it is a guess until several jobs are done.

    Args:
        console: where to show.
        names: the jobs, in order.
    """

    def __init__(self, console: Console, names: list[str]):
        self.console = console
        self._total = len(names)
        self._done = 0
        self._started = self._last_message = time.monotonic()
        self._spent: dict[str, float] = {}
        self._reached: dict[str, int] = {}
        self._durations: list[float] = []
        self._last_line = 0.0
        self._stage = ""
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._run = self._live.add_task("jobs", total=self._total, left="")
        self._now = self._live.add_task("", total=None, visible=False, left="")

    def __enter__(self) -> "RunProgress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Prints a line above the bars."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def start(self, job: str) -> None:
        """A job begins."""
        self._started = self._last_message = time.monotonic()
        self._stage = ""
        self._spent.clear()
        self._reached.clear()
        self._live.update(self._run, description=f"job {self._done + 1} of {self._total}")

    def finish(self, job: str) -> None:
        """A job is done."""
        seconds = time.monotonic() - self._started
        self._durations.append(seconds)
        self._advance()
        left = sum(self._durations) / len(self._durations) * (self._total - self._done)
        self._live.update(self._run, left=f"about {_clock(left)} left")
        self.note(f"  {job} done in {seconds:.0f} s ({self._done} of {self._total}, about {_clock(left)} left)")

    def reuse(self, job: str) -> None:
        """A job was done before."""
        self._advance()
        self.note(f"  {job} reused from an earlier run")

    def leave_out(self, job: str, reason: str = "") -> None:
        """A job does not fit the data, or belongs to a method that did not."""
        self._advance()
        self.note(f"  {job} left out" + (f": {reason}" if reason else ""))

    def show(self, job: str, message: dict) -> None:
        """Shows a worker's message."""
        if "note" in message:
            self.note(f"  {job}: {message['note']}")
        if "stage" not in message:
            return
        stage, done, total = message["stage"], message["done"], message["total"]
        left = self._seconds_left(stage, done, total)
        if stage != self._stage:
            self._stage = stage
            self._live.reset(self._now, total=total, visible=True)
        text = "" if left is None else f"about {_clock(left)} left"
        self._live.update(self._now, description=f"{job}: {stage}", completed=done, total=total, left=text)
        self._plain_line(job, stage, done, total, text)

    def _seconds_left(self, stage: str, done: int, total: int) -> float | None:
        """Time left of a stage from the time it has had, other stages in between not counted."""
        now = time.monotonic()
        if done < self._reached.get(stage, 0):
            self._spent[stage] = 0.0
        elif stage == self._stage:
            self._spent[stage] = self._spent.get(stage, 0.0) + now - self._last_message
        self._last_message, self._reached[stage] = now, done
        spent = self._spent.get(stage, 0.0)
        return spent / done * (total - done) if done and spent else None

    def _advance(self) -> None:
        self._done += 1
        self._live.update(self._run, completed=self._done)
        self._live.update(self._now, visible=False)

    def _plain_line(self, job: str, stage: str, done: int, total: int, left: str) -> None:
        now = time.monotonic()
        if self.console.is_terminal or now - self._last_line < _LINE_EVERY_SECONDS or not done:
            return
        self._last_line = now
        self.note(f"  {job}: {stage} {done}/{total}" + (f", {left}" if left else ""))


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
