"""What `erel embed` tells a person: an estimate before, progress meanwhile, and what it took."""

import shlex
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from erel_jax.catalogs.config import EmbedConfig
from erel_jax.catalogs.encode import Meter
from erel_jax.catalogs.inputs import Batch
from erel_jax.catalogs.models import Embedder
from erel_jax.catalogs.plan import Plan
from erel_jax.catalogs.shards import LEFT_OUT, done_shards
from erel_jax.data.catalog_sources import Source

if TYPE_CHECKING:
    from erel_jax.catalogs.embed import Embedded

ID_BYTES = 16
"""Assumed size of an id on disk."""


def estimate(
    config: EmbedConfig,
    plan: Plan,
    source: Source,
    embedder: Embedder,
    batch: Batch | None,
    preparing: float,
    meter: Meter,
    console: Console,
) -> None:
    """Prints what is going to be done, how large it will be and how long it will take.

    Args:
        config, plan, source, embedder: the job.
        batch: the first batch, None where none of its rows was usable.
        preparing: seconds that preparing it took.
        meter: holds the measured time of its step.
        console: where to print.
    """
    done = done_shards(config.out, plan)
    left = plan.rows - sum(plan.shard_rows(number) for number in done)
    size = plan.rows * (embedder.width * (2 if config.store == "float16" else 4) + ID_BYTES)
    console.print(
        f"{plan.rows:,} rows of {source.path} ({plan.model['modality']}) in {len(plan.places)} shards: "
        f"{embedder.width} dimensions of {config.store}, length 1, about {_size(size)} in {config.out}.",
        highlight=False,
    )
    for remark in source.remarks():
        console.print(remark, highlight=False, markup=False)
    if done:
        console.print(f"{len(done)} shards are there already; {left:,} rows are left.", highlight=False)
    if batch is None:
        console.print("None of the first rows can be used, so there is no estimate of the time.", highlight=False)
        return
    own = meter.own[batch.shape]
    console.print(
        f"A first batch of {len(batch.rows)}: {preparing:.2f} s to read and prepare, {own:.2f} s to encode "
        f"({len(batch.rows) / own:,.0f} items/s), {1 - batch.real / batch.padded:.0%} padding. "
        f"About {_time(left * own / len(batch.rows))} for one worker alone.",
        highlight=False,
    )


class ProgressShown:
    """A progress bar over the rows of all workers; lines of text where there is no terminal."""

    def __init__(self, out: Path, plan: Plan, console: Console) -> None:
        self._out, self._plan, self._console = out, plan, console
        self._stored = self._own = 0
        self._shown = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("rows", total=plan.rows)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        self.shard_done()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def advance(self, rows: int) -> None:
        """Counts rows of the shard at hand."""
        self._own += rows
        self._progress.update(self._task, completed=min(self._stored + self._own, self._plan.rows))

    def shard_done(self) -> None:
        """Counts the shards in place, everybody's."""
        done = done_shards(self._out, self._plan)
        self._stored, self._own = sum(self._plan.shard_rows(number) for number in done), 0
        self._progress.update(self._task, completed=self._stored)
        if not self._console.is_terminal and time.monotonic() - self._shown > 10:
            self._shown = time.monotonic()
            self._console.print(f"{self._stored:,} of {self._plan.rows:,} rows are stored.", highlight=False)


def print_summary(config: EmbedConfig, plan: Plan, done: "Embedded", cut: int, console: Console) -> None:
    """Prints what a worker did, what was left out, and what to do next.

    Args:
        config, plan: the job.
        done: what this worker did.
        cut: texts that were cut.
        console: where to print.
    """
    meter = done.meter
    if done.shards:
        share = meter.rate / meter.own_rate if meter.own_rate else 0.0
        table = Table("this worker", "", show_header=True)
        table.add_row("items", f"{meter.rows:,} in {done.shards} shards")
        table.add_row("end to end", f"{meter.rate:,.1f} items/s (reading, preparing, encoding, writing)")
        table.add_row(
            "encoder alone", f"{meter.own_rate:,.1f} items/s on ready inputs; end to end is {share:.0%} of it"
        )
        table.add_row("padding", f"{meter.waste:.1%} of {meter.padded:,} computed {_units(plan)}")
        table.add_row("programs compiled", f"{done.compilations}, in {meter.compile_seconds:.1f} s with timing")
        if cut:
            table.add_row("texts cut", f"{cut:,} to {plan.model['max_length']} tokens")
        console.print(table)
    result = done.result
    if result is None:
        missing = len(plan.places) - len(done_shards(config.out, plan))
        console.print(f"{missing} of {len(plan.places)} shards are left to other workers.", highlight=False)
        return
    for kind, count in result["left_out"].items():
        console.print(f"  {count:,} rows: {kind}", highlight=False)
    listed = "The others" if result["kept"] < result["rows"] else "Long texts that were cut"
    where = f" {listed} are listed in {config.out / LEFT_OUT}." if result["left_out"] else ""
    console.print(f"{result['kept']:,} of {result['rows']:,} rows have a vector.{where}", highlight=False)
    if result["kept"]:
        words = ["erel", "index", "--vectors", str(config.out), "--out", f"{config.out.name}-index"]
        console.print(f"Next: {shlex.join(words)}", soft_wrap=True, highlight=False, markup=False)


def _units(plan: Plan) -> str:
    return "tokens" if plan.model["modality"] == "text" else "pictures"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
