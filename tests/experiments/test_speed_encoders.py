"""The encoder speed script runs and prints one complete JSON line per row."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "speed_encoders.py"


@pytest.mark.parametrize("family", ["vit_b16", "bert_base"])
def test_rows_of_the_tiny_preset(family, plain_environment):
    rows = [f"{family}_bf16", f"{family}_int8", *(["vit_b16_int8_tome"] if family == "vit_b16" else [])]
    command = [sys.executable, str(SCRIPT), "--preset", "tiny", "--rows", *rows]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["name"] for line in lines] == rows
    for line in lines:
        assert line["ours"] > 0
        assert line["cosine"] >= (0.5 if line["name"].endswith("tome") else 0.995)
        if line["peer"] is None:
            assert line["ratio"] is None and line["unavailable"]["peer"]
        else:
            assert line["ratio"] > 0
    assert lines[1]["kernels"] in ("dynamic", "widened")
