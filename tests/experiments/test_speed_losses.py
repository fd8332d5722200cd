"""The loss speed script runs and prints one complete JSON line per row."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "speed_losses.py"


def test_rows_of_the_tiny_preset(plain_environment):
    command = [sys.executable, str(SCRIPT), "--preset", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment, timeout=240)
    assert done.returncode == 0, done.stderr
    memory, time = (json.loads(line) for line in done.stdout.splitlines())
    assert (memory["name"], memory["unit"]) == ("contrastive_temp_bytes_b2048", "bytes")
    assert (time["name"], time["unit"]) == ("contrastive_step_b128", "ms")
    for row in (memory, time):
        assert row["ours"] > 0 and row["peer"] > 0
    assert memory["ratio"] == memory["peer"] / memory["ours"]
    assert time["difference"] < 1e-5
