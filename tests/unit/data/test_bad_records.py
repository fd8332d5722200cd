"""Bad records are listed on disk before the job stops, and counted against the right total."""

import json

import pytest

from erel_jax.data.bad_records import BadRecords
from erel_jax.errors import ConfigError, DataError


def test_one_percent_is_tolerated_and_listed(tmp_path) -> None:
    bad = BadRecords(tmp_path / "out" / "bad_records.jsonl")
    bad.add("a\u00e9", "table.csv, line 3", 'cut "off"')
    assert bad.finish(100) == 1
    lines = (tmp_path / "out" / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": "aé", "file": "table.csv, line 3", "reason": 'cut "off"'}]


def test_more_than_one_percent_stops_the_job_after_listing(tmp_path) -> None:
    path = tmp_path / "bad_records.jsonl"
    bad = BadRecords(path)
    for number in range(7):
        bad.add(str(number), "f", "empty")
    with pytest.raises(DataError, match=r"7 of 699 records are damaged, more than 1.00%: 0: empty; .*; and 2 more"):
        bad.finish(699)
    assert len(path.read_text().splitlines()) == 7
    assert bad.finish(700) == 7


def test_missing_records_are_listed_but_are_no_damage(tmp_path) -> None:
    bad = BadRecords(tmp_path / "bad_records.jsonl")
    for number in range(50):
        bad.add(str(number), "f", "no picture", damaged=False)
    assert bad.finish(100) == len(bad) == 50


def test_the_message_shows_damaged_records_alone(tmp_path) -> None:
    bad = BadRecords(tmp_path / "bad_records.jsonl", 0.1)
    for number in range(6):
        bad.add(f"missing{number}", "f", "no picture", damaged=False)
    for number in range(2):
        bad.add(f"broken{number}", "f", "cut off")
    with pytest.raises(DataError, match=r"2 of 10 .*: broken0: cut off; broken1: cut off\. All"):
        bad.finish(10)


def test_no_bad_records_leave_an_empty_list(tmp_path) -> None:
    bad = BadRecords(tmp_path / "bad_records.jsonl", max_fraction=0)
    assert bad.finish(10) == 0
    assert (tmp_path / "bad_records.jsonl").read_bytes() == b""
    bad.add("x", "f", "r")
    with pytest.raises(DataError, match="1 of 10"):
        bad.finish(10)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction: float, tmp_path) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        BadRecords(tmp_path / "x", fraction)
