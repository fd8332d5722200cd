"""Published models at their real sizes, compiled for eight TPU chips without one (needs libtpu; run with -m tpu_aot).

The steps are those of `tests/budgets/test_real_sizes.py`; `real_sizes.json` holds, under `tpu`, the topology and the
most bytes that one chip may need: 2 % over what libtpu 0.0.50.1 says, the version that JAX 0.12.0.1 asks for (0.0.52
needs a third less working memory). Nothing of the CPU backend is in these: products and gathers are in bfloat16.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = json.loads((ROOT / "tests" / "budgets" / "real_sizes.json").read_text("utf-8"))
NO_CHIP = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}

pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (pip install libtpu)"
    ),
]
MEASURE = """
import importlib.util, json, sys
from jax.experimental import topologies
path, name, topology = sys.argv[1:]
found = importlib.util.spec_from_file_location("real_sizes", path)
steps = importlib.util.module_from_spec(found)
found.loader.exec_module(steps)
print(json.dumps(steps.measured(name, topologies.get_topology_desc(topology, "tpu").devices)))
"""


# One step of an encoder and one of training in every check; the others take minutes together.
QUICK = ("clip_large_image-encode", "llama_3_8b-lora")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(BUDGETS)]
)
def test_a_chip_holds_its_share_of_the_weights_and_one_layer_at_a_time(plain_environment, name):
    budget = BUDGETS[name]["tpu"]
    path = os.pathsep.join([*sys.path, plain_environment["PYTHONPATH"]])
    arguments = [str(ROOT / "tests" / "budgets" / "test_real_sizes.py"), name, budget["topology"]]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        env=plain_environment | NO_CHIP | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({name: found}))
    assert found["arguments"] + found["temporary"] <= budget["bytes"]
    assert found["gathered"] <= found["layer"]
