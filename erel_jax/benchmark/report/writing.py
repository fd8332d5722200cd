"""Writes the report files of a run, each whole or not at all."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erel_jax.artifacts import write_bytes_atomic
from erel_jax.benchmark.record import Record, write_records
from erel_jax.benchmark.report.gallery import Galleries, write_galleries
from erel_jax.benchmark.report.html import render_html
from erel_jax.benchmark.report.markdown import render_markdown
from erel_jax.benchmark.summary import summarize


@dataclass(frozen=True)
class ReportPaths:
    """Where the files of a report are.

    Attributes:
        html: the page.
        markdown: the Markdown document.
        records: the records with TPME and PSCP filled in.
        gallery: queries and results, None if there are none.
    """

    html: Path
    markdown: Path
    records: Path
    gallery: Path | None


def write_report(
    records: Sequence[Record], galleries: Galleries | None, out_dir: str | os.PathLike[str]
) -> ReportPaths:
    """Write `records.jsonl`, `gallery.json`, `report.md` and `report.html`.

    Args:
        records: all records of one task on one data set, floors and learned methods.
        galleries: queries with results by method, or None.
        out_dir: folder of the files; made if missing.

    Returns:
        The paths.

    Raises:
        ConfigError: the records do not belong to one run (see `summarize`).
        OSError: the folder cannot be written.
    """
    summary = summarize(records)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    page = render_html(summary, galleries)
    return ReportPaths(
        records=write_records(folder / "records.jsonl", summary.records),
        gallery=write_galleries(folder / "gallery.json", galleries) if galleries else None,
        markdown=write_bytes_atomic(folder / "report.md", render_markdown(summary).encode("utf-8", "replace")),
        html=write_bytes_atomic(folder / "report.html", page.encode("utf-8", "replace")),
    )
