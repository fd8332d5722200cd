"""The training step compiles for a TPU topology without a TPU (needs libtpu; run with -m tpu_aot)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (pip install libtpu)"
    ),
]


def check(environment, *options):
    """Run the check in its own process, because libtpu takes one lock per machine; return exit code and row."""
    path = os.pathsep.join([*sys.path, environment["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "tpu/aot_check.py", "--tiny", "--batch", "16", *options],
        env=environment | {"PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr[-2000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_replicated_step_only_sums_gradients(plain_environment):
    code, row = check(plain_environment, "--rules", "replicated", "--method", "lora")
    assert (code, row["faults"], row["chips"]) == (0, [], "8 x TPU v5 lite")
    assert row["collectives"]["all-reduce"] >= 1
    assert row["flops_per_chip_scan_body_once"] > 0


def test_fsdp_tensor_step_gathers_parameters(plain_environment):
    code, row = check(plain_environment, "--rules", "fsdp_tensor", "--model", "2")
    assert (code, row["faults"]) == (0, [])
    assert row["collectives"]["all-gather"] >= 1


def test_a_program_too_large_is_a_fault(plain_environment):
    code = "import sys; sys.argv = ['x', '--tiny', '--batch', '16', '--rules', 'replicated']\n"
    code += "sys.path.insert(0, 'tpu'); import aot_check; aot_check.HBM_BYTES['TPU v5 lite'] = 1.0\n"
    code += "sys.exit(aot_check.main())"
    path = os.pathsep.join([*sys.path, plain_environment["PYTHONPATH"]])
    environment = plain_environment | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "the chip has" in json.loads(done.stdout.splitlines()[-1])["faults"][0]
