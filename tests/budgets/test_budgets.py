"""Budgets of key steps: operations, memory and collectives must not grow unnoticed.

`budgets.json` holds, per step, the counted FLOPs (2 % tolerance), an upper bound of the compiled program's bytes per
device, and the collectives it may contain. A step that became cheaper passes; then lower its budget. To see what is
measured now:

    python -m pytest tests/budgets -rP
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from erel_jax import module, tree
from erel_jax.encoders.bert import BertConfig, bert
from erel_jax.layers import BFLOAT16
from erel_jax.profiling import compiled_bytes, count_flops
from erel_jax.sharding import batch_sharding, compile_step, make_mesh, named_rules, shardings

BUDGETS = json.loads((Path(__file__).parent / "budgets.json").read_text("utf-8"))
COLLECTIVE = re.compile(r"\b(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
CONFIG = BertConfig(vocabulary=1024, width=128, layers=3, heads=8, mlp_width=512, max_positions=32)
TRAINED = {"full": [".*"], "bias": [r"layers/.*/bias"]}


def step_of(name):
    """(function, abstract arguments with shardings, mesh) of a budgeted step, `<kind>_<rules>`."""
    kind, rules = name.split("_", 1)
    encoder = bert(CONFIG, BFLOAT16)
    mesh = make_mesh(data=2, model=4)
    placed = jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
        module.abstract(encoder.module.spec),
        shardings(encoder.module.spec, mesh, named_rules(rules)),
    )
    rows = batch_sharding(mesh, 2)
    inputs = {
        "ids": jax.ShapeDtypeStruct((16, 32), jnp.int32, sharding=rows),
        "mask": jax.ShapeDtypeStruct((16, 32), jnp.bool_, sharding=rows),
    }
    if kind == "encode":
        return lambda params, x: encoder.module.apply(params, x).embedding, (placed, inputs), mesh
    selected, rest = tree.partition(placed, TRAINED[kind])

    def train(selected, rest, x):
        def loss(s):
            return jnp.mean(encoder.module.apply(tree.merge(s, rest), x).embedding ** 2)

        value, gradients = jax.value_and_grad(loss)(selected)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, selected, gradients)

    return train, (selected, rest, inputs), mesh


@pytest.mark.parametrize("name", sorted(BUDGETS))
def test_step_keeps_its_budget(name):
    function, arguments, mesh = step_of(name)
    budget = BUDGETS[name]
    flops = count_flops(function, *arguments).total
    step = compile_step(function, mesh=mesh)
    compiled = step.compile(*arguments)
    size = compiled_bytes(step).bytes
    collectives = sorted(set(COLLECTIVE.findall(compiled.as_text() or "")))
    print(json.dumps({name: {"flops": flops, "bytes": size, "collectives": collectives}}))
    assert flops == pytest.approx(budget["flops"], rel=0.02)
    assert size is not None and size <= budget["bytes"]
    assert set(collectives) <= set(budget["collectives"])
