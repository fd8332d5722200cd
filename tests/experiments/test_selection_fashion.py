"""The experiment on shuffled captions runs on drawn pairs and finds most of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "selection_fashion.py"


def test_the_tiny_preset_prints_a_complete_row(plain_environment):
    command = [sys.executable, str(SCRIPT), "--preset", "tiny", "--shares", "0.4"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment, timeout=240)
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(line) for line in done.stdout.splitlines())
    assert row["name"] == "fashion_noise_40"
    assert 0 < row["wrong"][0] < 192
    assert 0 < row["kept"][0] <= 192
    assert 0.7 < row["auroc"][0] <= 1
    assert 0.5 < row["auroc_ceiling"][0] <= 1
    assert row["recall@10/cleaned"][0] > row["recall@10/noisy"][0]
    for name in ("clean", "noisy", "cleaned", "perfect"):
        mean, lowest, highest = row[f"recall@10/{name}"]
        assert lowest == mean == highest
