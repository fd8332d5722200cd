"""The compression script runs on small towers with random weights and prints a complete JSON line per row."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_rows_of_the_tiny_preset(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    script = importlib.import_module("experiments.compression_fashion")
    rows = script.main(["--preset", "tiny"])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    names = [row["name"] for row in rows]
    pruned = {"neurons_half", "neurons_half_healed", "heads_1", "heads_1_healed"}
    assert names[0] == "source" and {*script.ROUNDED, "tome_1", *pruned} < set(names)
    assert "layers_1" not in names  # these towers have one layer
    assert rows[0]["points_lost"] == 0 and rows[0]["image_cosine"] == pytest.approx(1.0)
    named = {row["name"]: row for row in rows}
    assert named["neurons_half_healed"]["image_cosine"] > named["neurons_half"]["image_cosine"]
    for row in rows:
        assert 0 <= row["recall@1"] <= row["recall@10"] <= 1 and np.isfinite(row["points_lost"])
        if row["name"] in script.ROUNDED:
            assert row["image_cosine"] > 0.95, row
