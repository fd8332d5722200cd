"""The experiment on learnability and JEST runs on drawn pairs and counts what it spends."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "selection_jest.py"


@pytest.mark.slow
def test_the_tiny_preset_prints_a_row_per_method(plain_environment):
    command = [sys.executable, str(SCRIPT), "--preset", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment, timeout=240)
    assert done.returncode == 0, done.stderr
    uniform, short, *selecting = (json.loads(line) for line in done.stdout.splitlines())
    assert [row["name"] for row in selecting] == ["fashion_learnability", "fashion_jest"]
    assert uniform["flops_share"] == 1
    assert 0.55 < short["flops_share"] <= 0.62
    assert uniform["overhead_of_selection"][0] == 0
    for row in selecting:
        assert 0.4 < row["flops_share"] <= 0.62
        assert 0 < row["overhead_of_selection"][0] < 1
        assert row["steps"] < uniform["steps"]
        shares = [share for share, _ in row["curve"]]
        assert shares == sorted(shares)


def test_the_pool_and_the_first_share_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    script = importlib.import_module("experiments.selection_jest")
    train, _, _ = script.drawn(0)
    curated, pool = script.divided(train, script.sizes("tiny"), seed=0)
    assert len(curated.group) == 64
    assert set(curated.group.tolist()).isdisjoint(pool.pairs.group.tolist())
    assert len(pool.copy) == 128 + 4 * 4
    assert pool.copy.sum() == 16
    assert pool.mismatched[:128].sum() == round(0.4 * 128)
    curve = np.array([[0.1, 0.2], [0.2, 0.5], [0.3, 0.4]])
    assert script.first_share(curve, 0.4) == 0.2
    assert script.first_share(curve, 0.6) is None
