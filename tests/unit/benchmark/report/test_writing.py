"""The files of a report."""

import dataclasses

import pytest

from erel_jax.benchmark.record import read_records
from erel_jax.benchmark.report import read_galleries, write_report
from erel_jax.errors import ConfigError


def test_all_files_are_written_whole(tmp_path, records, galleries):
    paths = write_report(records, galleries, tmp_path / "out" / "run")
    names = sorted(path.name for path in (tmp_path / "out" / "run").iterdir())
    assert names == ["gallery.json", "records.jsonl", "report.html", "report.md"]
    assert paths.html.read_text("utf-8").rstrip().endswith("</html>")
    stored = read_records(paths.records)
    assert [r.method for r in stored] == [r.method for r in records]
    assert all(r.tpme is not None and r.pscp is not None for r in stored if r.kind == "learned")
    assert paths.gallery is not None and set(read_galleries(paths.gallery)) == set(galleries)


def test_writing_again_replaces(tmp_path, records):
    first = write_report(records, None, tmp_path)
    assert first.gallery is None
    second = write_report(records[:4], None, tmp_path)
    assert len(read_records(second.records)) == 4
    assert len(list(tmp_path.iterdir())) == 3


def test_stored_records_make_the_same_report(tmp_path, records):
    paths = write_report(records, None, tmp_path)
    page = paths.html.read_bytes()
    again = write_report(read_records(paths.records), None, tmp_path / "again")
    assert again.html.read_bytes() == page


def test_lone_surrogates_do_not_stop_a_report(tmp_path, records):
    changed = [dataclasses.replace(record, notes=("\ud800",), command="erel bench \udcff") for record in records]
    paths = write_report(changed, None, tmp_path)
    assert read_records(paths.records)[0].command == "erel bench \udcff"


def test_nothing_is_written_for_records_of_several_runs(tmp_path, records):
    with pytest.raises(ConfigError, match="one task on one data set"):
        write_report([*records, dataclasses.replace(records[0], data="other")], None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
