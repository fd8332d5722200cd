"""The distillation experiment trains teacher and students on drawn pictures and reports both."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "distill_retrieval.py"


def test_the_tiny_preset_prints_every_run_and_a_summary(plain_environment):
    command = [sys.executable, str(SCRIPT), "--preset", "tiny", "--seeds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment, timeout=240)
    assert done.returncode == 0, done.stderr
    *runs, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert [run["run"] for run in runs] == ["teacher", *("alone", "inherited", "distilled") * 2]
    assert 0 < summary["flops_ratio"] <= 0.25
    assert summary["teacher"] == runs[0]["recall@10"]
    assert summary["distilled"]["values"] == [run["recall@10"] for run in runs if run["run"] == "distilled"]
    assert summary["gain_of_losses"] == summary["distilled"]["mean"] - summary["inherited"]["mean"]
    assert summary["kept"] == pytest.approx(summary["distilled"]["mean"] / summary["teacher"])
