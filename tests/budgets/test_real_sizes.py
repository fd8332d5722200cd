"""Budgets of published models at their real sizes, compiled ahead of time for eight devices; no weight is allocated.

For each model the encode step and the training step of LoRA (rank 8 on queries and values, Adam, layers recomputed) are
compiled from abstract arguments: bfloat16 parameters and products, split by `fsdp_tensor` over 4 × 2 devices or by
`fsdp` over 8. `real_sizes.json` keeps per step and device

- `arguments`: bytes of what the program is given: weights / 8, the optimizer's state, the batch. Exact, and the same on
  every kind of device;
- `temporary`: an upper bound of what it needs besides;
- `collectives`: an upper bound of how many of each kind the program has. The body of the layers' loop counts once.

Besides, no program may gather more than one layer's weights at a time, let alone the stack or an embedding table.

The temporary bytes are those of XLA's CPU backend. On most processors it multiplies bfloat16 as float32 and so gathers
a layer at twice its size; the one of jax 0.10 also converts the whole stack ahead of the loop, which is switched off
here because no accelerator does it. `tests/tpu_aot/test_real_sizes.py` holds the steps to what a TPU needs.

    python -m pytest tests/budgets/test_real_sizes.py -n 0 -m "" -rP     # what is measured now
"""

import json
import math
import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from erel_jax import module, tree
from erel_jax.adapters import lora, split, trainable
from erel_jax.encoders import ENCODERS
from erel_jax.layers import Precision
from erel_jax.sharding import batch_sharding, compile_step, make_mesh, named_rules, shardings
from erel_jax.training import adam, train_step
from erel_jax.training.state import abstract_state, state_shardings, tree_shardings

BUDGETS = json.loads((Path(__file__).parent / "real_sizes.json").read_text("utf-8"))
KINDS = r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
COLLECTIVE = re.compile(rf"\b({KINDS})(?:-start)?\(")
GATHERED = re.compile(r"\w+\[([\d,]*)\]\S* all-gather\(")
HALF = Precision(param=jnp.bfloat16, compute=jnp.bfloat16)
NO_HOISTING = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion,while-loop-expensive-invariant-code-motion"}
# (family, preset, rules, data × model devices, rows, tokens)
MODELS = {
    "llama_3_8b": ("llama", "llama_3_8b", "fsdp_tensor", (4, 2), 16, 128),
    "llama_3_70b": ("llama", "llama_3_70b", "fsdp_tensor", (4, 2), 16, 128),
    "mistral_7b": ("mistral", "mistral_7b", "fsdp_tensor", (4, 2), 16, 128),
    "siglip_so400m_text": ("siglip_text_model", "so400m", "fsdp", (8, 1), 16, 64),
    "siglip_so400m_image": ("siglip_vision_model", "so400m_14_384", "fsdp", (8, 1), 16, None),
    "clip_large_text": ("clip_text_model", "large_14", "fsdp", (8, 1), 16, 77),
    "clip_large_image": ("clip_vision_model", "large_14", "fsdp", (8, 1), 16, None),
}
STEPS = [f"{model}-{step}" for model in MODELS for step in ("encode", "lora")]
QUICK = ("llama_3_8b-encode", "clip_large_image-encode")


def placed(abstract, places):
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), abstract, places)


def batch_of(encoder, mesh, rows, tokens):
    if tokens is None:
        side = encoder.config.image_size
        batch = {"pixels": jax.ShapeDtypeStruct((rows, side, side, 3), jnp.float32)}
    else:
        batch = {name: jax.ShapeDtypeStruct((rows, tokens), t) for name, t in (("ids", jnp.int32), ("mask", jnp.bool_))}
    return placed(batch, jax.tree.map(lambda x: batch_sharding(mesh, x.ndim), batch))


def compiled(name, devices=None, compiler_options=None):
    """(compiled step, spec of its parameters) of one of `STEPS`."""
    model, kind = name.rsplit("-", 1)
    family, preset, rules, shape, rows, tokens = MODELS[model]
    encoder = ENCODERS[family].build(getattr(ENCODERS[family].config, preset)(), HALF, remat=True)
    mesh = make_mesh(*shape, devices=devices)
    batch, spec = batch_of(encoder, mesh, rows, tokens), encoder.module.spec
    if kind == "encode":
        params = placed(module.abstract(spec), shardings(spec, mesh, named_rules(rules)))
        step = compile_step(
            lambda p, x: encoder.module.apply(p, x).embedding, mesh=mesh, compiler_options=compiler_options
        )
        step.compile(params, batch)
        return step, spec

    def loss(params, batch, key):
        return jnp.mean(encoder.module.apply(params, batch, key=key, train=True).embedding ** 2), {}

    spec, optimizer = lora(spec, trainable.LORA_TARGETS, rank=8), adam(1e-4)
    trains, frozen = split(module.abstract(spec), trainable.LORA_FACTORS)
    state = abstract_state(trains, optimizer)
    function = train_step(loss, optimizer, mesh=mesh, rules=rules, spec=spec).fn
    step = compile_step(function, mesh=mesh, donate=(0,), compiler_options=compiler_options)
    step.compile(
        placed(state, state_shardings(state, mesh, rules, spec)),
        placed(frozen, tree_shardings(frozen, mesh, rules, spec)),
        batch,
    )
    return step, spec


def measured(name, devices=None, compiler_options=None):
    """What is budgeted, and the most elements of one gathered array and of one layer's kernel."""
    step, spec = compiled(name, devices, compiler_options)
    text, memory = step.compiled.as_text(), step.memory
    assert memory is not None
    gathered = [math.prod(map(int, filter(None, shape.split(",")))) for shape in GATHERED.findall(text)]
    layer = max(math.prod(s.shape[1:]) for path, s in tree.paths(spec).items() if path.startswith("layers/"))
    return {
        "arguments": memory["argument"],
        "temporary": memory["temporary"],
        "collectives": dict(sorted(Counter(COLLECTIVE.findall(text)).items())),
        "gathered": max(gathered),
        "layer": layer,
    }


def beyond(found, budget):
    """What a step needs more than its budget says, by name; `arguments` must be equal."""
    more = {name: found[name] for name in ("arguments", "temporary") if found[name] > budget[name]}
    more |= {"arguments": found["arguments"]} if found["arguments"] < budget["arguments"] else {}
    more |= {"gathered": found["gathered"]} if found["gathered"] > found["layer"] else {}
    allowed = budget["collectives"]
    return more | {kind: count for kind, count in found["collectives"].items() if count > allowed.get(kind, 0)}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in STEPS])
def test_a_step_of_a_real_model_keeps_its_budget(name):
    found = measured(name, compiler_options=NO_HOISTING)
    print(json.dumps({name: found}))
    assert not beyond(found, BUDGETS[name])


@pytest.mark.parametrize("name", QUICK)
def test_the_budget_is_the_weights_over_eight_and_little_else(name):
    """An encode step may add the layer gathered at a time, in float32, and two of its widest activations."""
    family, preset, _, (data, _), rows, tokens = MODELS[name.rsplit("-", 1)[0]]
    config = getattr(ENCODERS[family].config, preset)()
    spec = ENCODERS[family].build(config, HALF).module.spec
    layer = sum(math.prod(s.shape[1:]) for path, s in tree.paths(spec).items() if path.startswith("layers/"))
    weights = tree.nbytes(module.abstract(spec))
    assert weights / 8 <= BUDGETS[name]["arguments"] <= 1.2 * weights / 8
    length = tokens or 1 + (config.image_size // config.patch) ** 2
    assert BUDGETS[name]["temporary"] < 4 * layer + 2 * 4 * (rows // data) * length * config.mlp_width
