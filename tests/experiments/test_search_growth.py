"""The growth script at a tiny size."""

import pytest

from experiments.search_growth import main


@pytest.mark.slow
def test_memory_and_time_are_measured_in_processes_of_their_own(capsys, tmp_path) -> None:
    rows = main((3_000, 6_000), repeats=1, folder=str(tmp_path))
    measured = [row for row in rows if row["name"].startswith("search_")]
    assert [(row["place"], row["batch"]) for row in measured[:4]] == [
        ("resident", 64),
        ("resident", 1),
        ("disk", 64),
        ("disk", 1),
    ]
    assert len(measured) == 8 and all(row["seconds_per_query"] > 0 for row in measured)
    assert all(row["peak_bytes"] > row["grown_bytes"] >= 0 for row in measured)
    growth = {row["name"]: row["per_row"] for row in rows if row["name"].startswith("growth_")}
    assert set(growth) == {"growth_resident_b64", "growth_resident_b1", "growth_disk_b64", "growth_disk_b1"}
    assert all(len(values) == 2 and values[0] == 1 for row in growth.values() for values in row.values())
    assert capsys.readouterr().out.count('"name"') == 12
