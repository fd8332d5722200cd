"""The report as one HTML page that opens offline.

Styles, pictures, plots and a small script for sorting are inside the page; a content security policy forbids it to
load or run anything else. All text is escaped by the template engine: item titles come from data sets and may hold
anything.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

import erel_jax
from erel_jax.benchmark.record import SCHEMA_VERSION, Record
from erel_jax.benchmark.report import quantities
from erel_jax.benchmark.report.columns import COLUMNS, Column, best_rows, metric_terms
from erel_jax.benchmark.report.gallery import Galleries, GalleryQuery, data_uri, printable
from erel_jax.benchmark.report.plots import draw_plot
from erel_jax.benchmark.summary import COST_AXES, MethodSummary, Summary, findings

QUERIES_SHOWN = 8
RESULTS_SHOWN = 10
QUERY_LINES = 12

RAW_FIELDS = {
    "Training": (
        "trainable_parameters",
        "total_parameters",
        "train_seconds",
        "train_step_seconds",
        "train_step_seconds_spread",
        "train_flops_per_step",
        "peak_bytes",
        "peak_bytes_source",
        "energy_joules",
        "compile_seconds",
        "recompiles_after_warmup",
        "epochs",
        "steps",
        "batch_size",
        "learning_rate",
        "tpme",
        "pscp",
    ),
    "Encoding, search and evaluation": (
        "encode_items_per_second",
        "query_seconds_p50",
        "query_seconds_p99",
        "bytes_per_item",
        "extract_seconds",
        "evaluate_seconds",
    ),
}
"""Fields of the tables of all numbers, by table; metrics make a table of their own."""


def render_html(summary: Summary, galleries: Galleries | None = None) -> str:
    """Render the report page.

    Args:
        summary: the summary of a run.
        galleries: queries with results by method; the section is left out without them.

    Returns:
        The page. At most `QUERIES_SHOWN` queries of `RESULTS_SHOWN` results are shown per method; the page says so.
    """
    script = _asset("sort.js")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    return environment.get_template("report.html.jinja").render(
        css=Markup(_asset("report.css")),
        script=Markup(script),
        script_hash=_script_hash(f"\n{script}"),
        version=erel_jax.__version__,
        schema_version=SCHEMA_VERSION,
        columns=COLUMNS,
        metrics=metric_terms(name for record in summary.records for name in record.metrics),
        **_opening(summary),
        groups=_groups(summary),
        tpme_set=summary.tpme_set,
        plots=_plots(summary),
        has_deviation=any(m.quality and m.quality.deviation for m in summary.learned),
        **_gallery_views(summary, galleries or {}),
        raw=_raw(summary),
        reasons=unavailable_reasons(summary),
        dropped=dropped_counts(summary.records),
        notes=notes_of(summary),
        commands=list(dict.fromkeys(record.command for record in summary.records)),
        environment=environment_rows(summary.records),
    )


def heading(summary: Summary) -> str:
    """Say the main result in one line.

    Args:
        summary: the summary of a run.

    Returns:
        A sentence without a full stop.
    """
    judged = [method for method in summary.learned if method.verdict]
    above = sum(method.verdict is not None and method.verdict.outcome == "above" for method in judged)
    if not judged:
        return f"{len(summary.learned)} methods, no floor to measure them against"
    if above == 0:
        return "No learned method beats the best floor"
    if above == len(judged):
        return "Every learned method beats the best floor"
    return f"{above} of {len(judged)} learned methods beat{'s' if above == 1 else ''} the best floor"


def notes_of(summary: Summary) -> list[str]:
    """Each remark once, after the methods that it is about where those are not all.

    Args:
        summary: the summary of a run.
    """
    methods: dict[str, dict[str, None]] = {}
    for record in summary.records:
        for note in record.notes:
            methods.setdefault(note, {})[record.method] = None
    everyone = {record.method for record in summary.records}
    return [note if set(names) == everyone else f"{', '.join(names)}: {note}" for note, names in methods.items()]


def unavailable_reasons(summary: Summary) -> list[dict[str, str]]:
    """Collect why values are unavailable, one row per reason.

    Args:
        summary: the summary of a run.

    Returns:
        Rows with "fields", "reason" and "methods", each a comma-separated text.
    """
    methods: dict[tuple[str, str], dict[str, None]] = {}
    for record in summary.records:
        for field, reason in record.unavailable.items():
            methods.setdefault((reason, field), {})[record.method] = None
    fields: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, field), names in methods.items():
        fields.setdefault((reason, tuple(names)), []).append(field)
    everyone = {record.method for record in summary.records}
    return [
        {
            "fields": ", ".join(found),
            "reason": reason,
            "methods": "all" if set(names) == everyone else ", ".join(names),
        }
        for (reason, names), found in fields.items()
    ]


def dropped_counts(records: Sequence[Record]) -> str:
    """Say what the data reader left out, empty if nothing."""
    counts: dict[str, int] = {}
    for record in records:
        for reason, number in record.dropped.items():
            counts[reason] = max(number, counts.get(reason, 0))
    return "; ".join(f"{reason}: {number:,}" for reason, number in counts.items())


def environment_rows(records: Sequence[Record]) -> list[tuple[str, str]]:
    """List the environment, with every value that occurs.

    Args:
        records: the records of a run.

    Returns:
        (name, value) pairs; several values are joined with "; ".
    """
    keys = dict.fromkeys(key for record in records for key in record.environment)
    rows = []
    for key in keys:
        values = dict.fromkeys(_environment_text(record, key) for record in records if key in record.environment)
        rows.append((key.removesuffix("_bytes").replace("_", " "), "; ".join(values)))
    return rows


def _environment_text(record: Record, key: str) -> str:
    value = record.environment[key]
    if value is None:
        return f"{quantities.MISSING}: {record.unavailable[f'environment.{key}']}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_bytes") and isinstance(value, int | float):
        return quantities.size(value)
    return str(value)


def _asset(name: str) -> str:
    return resources.files("erel_jax.benchmark.report").joinpath(name).read_text("utf-8")


def _script_hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _opening(summary: Summary) -> dict[str, Any]:
    records = summary.records
    first = records[0].environment
    seeds = {record.seed for record in records if record.kind == "learned"}
    queries = {record.evaluated_queries for record in records} - {None}
    device = " · ".join(str(v) for v in (first.get("cpu") or first.get("device"), _cores(first.get("cores"))) if v)
    facts = [
        ("Compared", f"{len(summary.learned)} learned methods, {len(summary.floors)} floors"),
        ("Seeds", str(len(seeds)) if seeds else quantities.MISSING),
        ("Test queries", " / ".join(f"{n:,}" for n in sorted(n for n in queries if n is not None)) or "unknown"),
        ("Hardware", device or "unknown"),
        ("Precision", str(first.get("precision") or "unknown")),
        ("JAX", str(first.get("jax") or "unknown")),
        ("Commit", str(first.get("commit") or "unknown")[:12]),
    ]
    return {
        "title": f"erel bench: {summary.task} on {summary.data}",
        "eyebrow": f"{summary.task} on {summary.data}, by {summary.headline}",
        "heading": heading(summary),
        "findings": findings(summary),
        "facts": facts,
        "cautions": summary.cautions,
    }


def _cores(cores: object) -> str:
    return f"{cores} core{'' if cores == 1 else 's'}" if cores else ""


def _groups(summary: Summary) -> list[dict[str, Any]]:
    best = {column.key: best_rows(column, summary.learned) for column in COLUMNS}
    top = max((m.quality.mean for m in (*summary.learned, *summary.floors) if m.quality), default=0.0) or 1.0
    floor = summary.best_floor.quality if summary.best_floor else None
    floor_percent = None if floor is None else round(100 * floor.mean / top, 1)

    def row(method: MethodSummary) -> dict[str, Any]:
        cells = [_cell(column, method, summary, method.method in best[column.key]) for column in COLUMNS]
        if method.quality:
            cells[0] |= {"bar": round(100 * method.quality.mean / top, 1), "floor": floor_percent}
        return {"name": method.method, "cells": cells}

    return [
        {"floors": False, "rows": [row(method) for method in summary.learned]},
        {"floors": True, "rows": [row(method) for method in summary.floors]},
    ]


def _cell(column: Column, method: MethodSummary, summary: Summary, is_best: bool) -> dict[str, Any]:
    value = column.value(method)
    classes = ["missing"] if value is None else ["best"] if is_best else []
    hint = column.reason(method, summary)
    deviation = ""
    if column.key == "quality" and method.quality and method.quality.deviation is not None:
        deviation = f"± {quantities.fraction(method.quality.deviation)}"
    if column.key == "margin" and method.verdict:
        classes.append(method.verdict.outcome)
        noise = method.verdict.noise
        stated = "unknown" if noise is None else quantities.fraction(noise)
        hint = f"{method.verdict.outcome}; noise {stated}, best floor {method.verdict.floor}"
        if method.verdict.outcome == "tie":
            deviation = "tie"
    return {
        "value": "" if value is None else repr(value),
        "text": "–" if column.key == "margin" and method.kind == "floor" else column.format(value),
        "css": " ".join(classes),
        "hint": hint,
        "deviation": deviation,
        "bar": None,
        "floor": None,
    }


def _plots(summary: Summary) -> list[dict[str, Any]]:
    plots = []
    for axis in COST_AXES:
        plot = draw_plot(summary, axis)
        if plot is not None:
            names = ", ".join(name for name, _ in plot.missing)
            plots.append({"title": plot.title, "svg": Markup(plot.svg), "missing": names})
    return plots


def _gallery_views(summary: Summary, galleries: Galleries) -> dict[str, Any]:
    order = [method.method for method in (*summary.learned, *summary.floors)]
    names = [name for name in order if galleries.get(name)]
    names += [name for name in galleries if name not in order and galleries[name]]
    views = []
    for name in names:
        queries = galleries[name][:QUERIES_SHOWN]
        right = sum(any(result.relevant for result in query.results[:RESULTS_SHOWN]) for query in queries)
        asked = "this query" if len(queries) == 1 else f"{right} of these {len(queries)} queries"
        note = f"{'no' if not right else 'a'} relevant item for {asked if right else 'any query shown'}"
        views.append({"method": name, "note": note, "queries": [_query_view(query) for query in queries]})
    cut = any(
        len(galleries[name]) > QUERIES_SHOWN or any(len(query.results) > RESULTS_SHOWN for query in galleries[name])
        for name in names
    )
    sentence = f"At most {QUERIES_SHOWN} queries and {RESULTS_SHOWN} results are shown." if cut else ""
    return {"galleries": views, "gallery_cut": sentence}


def _query_view(query: GalleryQuery) -> dict[str, Any]:
    results = query.results[:RESULTS_SHOWN]
    return {
        "lines": [printable(line, 300) for line in query.query_text.splitlines()[:QUERY_LINES]],
        "png": data_uri(query.query_png) if query.query_png else None,
        "pictures": any(result.png for result in results),
        "results": [
            {
                "text": printable(result.text),
                "png": data_uri(result.png) if result.png else None,
                "score": quantities.significant(result.score).replace("-", "\u2212"),
                "relevant": result.relevant,
            }
            for result in results
        ],
    }


def _raw(summary: Summary) -> list[dict[str, Any]]:
    """All records in three tables; a field that no record has is left to the list of unavailable values."""
    metrics = dict.fromkeys(f"metrics.{name}" for record in summary.records for name in record.metrics)
    validation = dict.fromkeys(
        f"validation_metrics.{n}" for record in summary.records for n in record.validation_metrics
    )
    tables = {"Quality": [*metrics, "evaluated_queries"], "Validation": [*validation], **RAW_FIELDS}
    parts = []
    for title, fields in tables.items():
        shown = [name for name in fields if any(_raw_value(record, name) is not None for record in summary.records)]
        sources = {record.peak_bytes_source for record in summary.records}
        if not shown:
            continue
        note = ""
        if "peak_bytes_source" in shown and len(sources) == 1:
            shown.remove("peak_bytes_source")
            note = f"peak_bytes_source of all rows: {sources.pop()}."
        rows = [[_raw_cell(record, name) for name in ("method", "seed", *shown)] for record in summary.records]
        names = [name.removeprefix("validation_").removeprefix("metrics.") for name in shown]
        parts.append({"title": title, "names": ["method", "seed", *names], "rows": rows, "note": note})
    return parts


def _raw_value(record: Record, name: str) -> Any:
    mapping, _, key = name.partition(".")
    return getattr(record, mapping).get(key) if key else getattr(record, mapping)


def _raw_cell(record: Record, name: str) -> dict[str, Any]:
    value = _raw_value(record, name)
    return {
        "value": "" if value is None else str(value),
        "text": quantities.exact(value),
        "css": "missing" if value is None else "",
        "hint": record.unavailable.get(name, ""),
    }
