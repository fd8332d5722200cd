"""The terminal table: the same numbers at every width, nothing cut off."""

import dataclasses
import io

import pytest
from rich.console import Console

from erel_jax.benchmark.report import print_table
from erel_jax.benchmark.report.columns import COLUMNS
from erel_jax.benchmark.summary import summarize


def printed(records, width):
    stream = io.StringIO()
    print_table(records, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [45, 60, 66, 80, 95, 100, 103, 119, 122, 125, 126, 128, 130, 200])
def test_every_number_is_printed_at_every_width(records, width):
    text = printed(records, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    summary = summarize(records)
    for method in (*summary.learned, *summary.floors):
        rows = [line for line in text.splitlines() if line.startswith(f"{method.method} ")]
        for column in COLUMNS[2:]:
            assert any(column.text(method).replace("\xa0", " ") in row for row in rows)
    assert all(column.title in text for column in COLUMNS)


def test_a_wide_terminal_gets_one_table_with_floors_below(records):
    lines = printed(records, 200).splitlines()
    assert sum(line.startswith("Method") for line in lines) == 1
    names = ("full_fine_tuning", "bitfit", "floors", "name_tfidf")
    assert tuple(line.split()[0] for line in lines if line.startswith(names)) == names


def test_it_says_which_methods_do_not_beat_the_floor(records):
    text = " ".join(printed(records, 200).split())
    assert "Within the noise of it:" in text
    for name in ("linear_probe", "head_only", "frozen_projection"):
        assert name in text.split("Within the noise of it:")[1]


def test_markup_and_escapes_in_names_are_printed_as_text(records):
    changed = [dataclasses.replace(r, method=f"[red]{r.method}[/red]\x1b[2J") for r in records]
    text = printed(changed, 200)
    assert "[red]lora_r8[/red]" in text and "\x1b" not in text
