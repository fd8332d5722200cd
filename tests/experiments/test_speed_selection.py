"""The selection speed script runs and prints one complete JSON line per row."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "speed_selection.py"


def test_rows_of_the_tiny_preset(plain_environment):
    command = [sys.executable, str(SCRIPT), "--preset", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == ["semdedup_2000x32", "semdedup_2000x32_no_topics"]
    for row in rows:
        assert 0 < row["ours"] < row["limit"]
        assert row["found"] >= 0.95
        assert row["false"] <= 0.01
