"""The Markdown report: whole tables, nothing read as markup."""

import dataclasses
import re

from erel_jax.benchmark.report import render_markdown
from erel_jax.benchmark.report.columns import COLUMNS
from erel_jax.benchmark.summary import summarize


def tables(text):
    return re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)


def cells(line):
    return re.split(r"(?<!\\)\|", line)


def test_tables_are_rectangular_and_complete(records):
    summary = summarize(records)
    text = render_markdown(summary)
    for table in tables(text):
        assert len({len(cells(line)) for line in table.splitlines()}) == 1
    learned, floors = tables(text)[:2]
    assert [cells(line)[1].strip() for line in learned.splitlines()[2:]] == [m.method for m in summary.learned]
    assert [cells(line)[1].strip() for line in floors.splitlines()[2:]] == [m.method for m in summary.floors]
    assert len(cells(learned.splitlines()[0])) == len(COLUMNS) + 3
    assert "8 of 12 learned methods beat the best floor" in text
    assert f"    {records[0].command}\n" in text


def test_data_is_escaped(records):
    evil = "a|b <script>alert(1)</script> [x](javascript:y) `c`"
    changed = [dataclasses.replace(record, data=evil, method=f"{record.method}{evil}") for record in records]
    text = render_markdown(summarize(changed))
    assert "<script" not in text
    assert "[x](" not in text.replace("\\[x\\](", "")
    for table in tables(text):
        assert len({len(cells(line)) for line in table.splitlines()}) == 1


def test_notes_are_there_once_as_on_the_page(records):
    noted = [dataclasses.replace(record, notes=("stopped after 90 s | early",)) for record in records]
    text = render_markdown(summarize(noted))
    assert text.count("- stopped after 90 s \\| early") == 1 and "## Notes" in text
    one = [dataclasses.replace(record, notes=("slow",) if record == records[0] else ()) for record in records]
    assert f"- {records[0].method}: slow" in render_markdown(summarize(one))
    assert "## Notes" not in render_markdown(summarize([dataclasses.replace(r, notes=()) for r in records]))
