"""The report as Markdown, for repositories and issue threads."""

from collections.abc import Sequence

import erel_jax
from erel_jax.benchmark.record import SCHEMA_VERSION
from erel_jax.benchmark.report import quantities
from erel_jax.benchmark.report.columns import COLUMNS, metric_terms
from erel_jax.benchmark.report.html import dropped_counts, environment_rows, heading, notes_of, unavailable_reasons
from erel_jax.benchmark.summary import MethodSummary, Summary, findings


def render_markdown(summary: Summary) -> str:
    """Render the report as Markdown.

    Args:
        summary: the summary of a run.

    Returns:
        The document. Names and texts are escaped, so that none of them is read as markup.
    """
    lines = [f"# {escape(heading(summary))}", "", f"{escape(f'{summary.task} on {summary.data}')}", ""]
    for sentence in findings(summary):
        lines += [escape(sentence), ""]
    lines += [f"- {escape(caution)}" for caution in summary.cautions]
    lines += ["", f"## Learned methods, by {escape(summary.headline)}", ""]
    lines += _comparison(summary.learned) if summary.learned else ["None was run."]
    if summary.floors:
        lines += ["", "## Floors: no training", "", *_comparison(summary.floors)]
    if summary.tpme_set:
        lines += ["", f"TPME compares the learned methods of this run only (set `{summary.tpme_set}`)."]
    sources = dict.fromkeys(record.peak_bytes_source for record in summary.records if record.peak_bytes_source)
    lines += ["", escape(f"Memory is {'; '.join(sources) or 'unavailable'}. All numbers are in records.jsonl.")]
    reasons = unavailable_reasons(summary)
    if reasons:
        rows = [[entry["fields"], entry["reason"], entry["methods"]] for entry in reasons]
        lines += ["", "## Unavailable values", "", *_table(["Value", "Why", "Methods"], rows, numeric=False)]
    if dropped := dropped_counts(summary.records):
        lines += ["", f"Left out by the data reader: {escape(dropped)}."]
    if notes := notes_of(summary):
        lines += ["", "## Notes", "", *(f"- {escape(note)}" for note in notes)]
    terms = [[c.title, f"{c.definition} ({c.better} is better)", c.caution] for c in COLUMNS]
    lines += ["", "## What the numbers mean", ""]
    lines += _table(["Column", "Definition", "What not to compare"], terms, numeric=False)
    metrics = [list(term) for term in metric_terms(name for record in summary.records for name in record.metrics)]
    if metrics:
        lines += ["", *_table(["Metric", "Definition"], metrics, numeric=False)]
    lines += ["", "## How to get these numbers", ""]
    for command in dict.fromkeys(record.command for record in summary.records):
        lines += [f"    {line}" for line in command.splitlines()] + [""]
    environment = [list(row) for row in environment_rows(summary.records)]
    lines += [*_table(["Environment", ""], environment, numeric=False), ""]
    lines += [f"erel_jax {erel_jax.__version__}, record schema {SCHEMA_VERSION}", ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Escape text so that Markdown and HTML inside it are shown as they are.

    >>> escape("a|b <script> *c* lora_r8")
    'a\\\\|b &lt;script&gt; \\\\*c\\\\* lora_r8'
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*|[]":
        text = text.replace(character, f"\\{character}")
    return text


def _comparison(methods: Sequence[MethodSummary]) -> list[str]:
    rows = []
    for method in methods:
        cells = [column.text(method) for column in COLUMNS]
        if method.quality and method.quality.deviation is not None:
            cells[0] += f" ± {quantities.fraction(method.quality.deviation)}"
        if method.verdict and method.verdict.outcome == "tie":
            cells[1] += " (tie)"
        if method.kind == "floor":
            cells[1] = "–"
        rows.append([method.method, *cells])
    return _table(["Method", *(column.title for column in COLUMNS)], rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: bool = True) -> list[str]:
    alignment = ["---", *("--:" if numeric else "---" for _ in titles[1:])]
    return [
        f"| {' | '.join(titles)} |",
        f"| {' | '.join(alignment)} |",
        *(f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows),
    ]
