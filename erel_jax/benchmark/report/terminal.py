"""The report as a table in the terminal.

Columns that do not fit the width continue in a further table below, with the method repeated, so that a narrow
terminal shows the same numbers as a wide one and nothing is cut off.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from erel_jax.benchmark.record import Record
from erel_jax.benchmark.report import quantities
from erel_jax.benchmark.report.columns import COLUMNS, Column, best_rows
from erel_jax.benchmark.report.gallery import printable
from erel_jax.benchmark.summary import MethodSummary, Summary, findings, summarize

COLUMN_PADDING = 3  # one space left and right of a cell and one between cells


def print_table(records: Sequence[Record], console: Console | None = None) -> None:
    """Print the comparison of one run.

    Args:
        records: all records of one task on one data set.
        console: where to print; standard output if None.

    Raises:
        ConfigError: the records do not belong to one run (see `summarize`).
    """
    console = Console() if console is None else console
    summary = summarize(records)
    console.print()
    title = f"{printable(summary.task)} on {printable(summary.data)}, by {printable(summary.headline)}"
    console.print(Text(title, style="bold"))
    for columns in _packed(summary, console.width):
        console.print(_table(summary, columns))
        console.print()
    if any(column.value(m) is None for m in (*summary.learned, *summary.floors) for column in COLUMNS[2:]):
        console.print(Text("n/a: unavailable; the report says why.", style="dim"))
        console.print()
    for sentence in findings(summary):
        console.print(Text(printable(sentence, 4000)))
    for caution in summary.cautions:
        console.print(Text(printable(caution, 4000), style="dim"))


def _text(column: Column, method: MethodSummary) -> str:
    if column.key == "margin":
        if method.verdict is None:
            return ""
        return f"{'= ' if method.verdict.outcome == 'tie' else ''}{column.text(method)}"
    text = column.text(method)
    if column.key == "quality" and method.quality and method.quality.deviation is not None:
        text += f" ±{quantities.fraction(method.quality.deviation)}"
    return text.replace(quantities.SPACE, " ")


def _packed(summary: Summary, width: int) -> list[list[Column]]:
    """Split the columns into tables that fit the width; every table has at least one column."""
    methods = (*summary.learned, *summary.floors)
    first = max([len("Method"), len("floors"), *(Text(printable(m.method)).cell_len for m in methods)]) + COLUMN_PADDING
    tables: list[list[Column]] = [[]]
    used = first
    for column in COLUMNS:
        needed = max([len(column.title), *(len(_text(column, m)) for m in methods)]) + COLUMN_PADDING
        if tables[-1] and used + needed > width:
            tables.append([])
            used = first
        tables[-1].append(column)
        used += needed
    return tables


def _table(summary: Summary, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("Method", no_wrap=True, overflow="ellipsis")
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    best = {column.key: best_rows(column, summary.learned) for column in columns}
    for method in summary.learned:
        cells = [
            Text(_text(column, method), style="bold" if method.method in best[column.key] else "") for column in columns
        ]
        table.add_row(Text(printable(method.method)), *cells)
    if summary.floors:
        if summary.learned:
            table.add_row()
        table.add_row(Text("floors", style="dim"))
    for method in summary.floors:
        cells = [Text(_text(column, method)) for column in columns]
        table.add_row(Text(printable(method.method)), *cells)
    return table
