"""The report of a run: terminal table, Markdown and one self-contained HTML page."""

from erel_jax.benchmark.report.gallery import (
    Galleries,
    GalleryQuery,
    GalleryResult,
    read_galleries,
    write_galleries,
)
from erel_jax.benchmark.report.html import render_html
from erel_jax.benchmark.report.markdown import render_markdown
from erel_jax.benchmark.report.terminal import print_table
from erel_jax.benchmark.report.writing import ReportPaths, write_report

__all__ = [
    "Galleries",
    "GalleryQuery",
    "GalleryResult",
    "ReportPaths",
    "print_table",
    "read_galleries",
    "render_html",
    "render_markdown",
    "write_galleries",
    "write_report",
]
