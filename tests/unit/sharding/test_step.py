"""`compile_step`: one program per shape, cost and memory at hand, equal numbers on 1 and 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.layers import FLOAT32, BlockConfig, block, dense, masked_mean, run_stack, stack_spec
from erel_jax.module import ParamSpec
from erel_jax.sharding import RULES, batch_sharding, compile_step, make_mesh, replicated_sharding, shardings

CONFIG = BlockConfig(width=16, heads=4, mlp_width=32)


def test_each_shape_compiles_once():
    step = compile_step(lambda x: x * 2)
    for rows in (3, 3, 4, 3, 4):
        np.testing.assert_array_equal(step(jnp.ones(rows)), 2.0)
    assert step.compilations == 2 and step.compile_seconds > 0
    step(jnp.ones(3, jnp.bfloat16))
    assert step.compilations == 3


def test_python_scalars_and_arrays_both_run():
    for first, second in [(2.0, jnp.float32(3.0)), (jnp.float32(2.0), 3.0)]:
        step = compile_step(lambda x, y: x * y)
        assert float(step(jnp.ones(()), first)) == 2.0
        assert float(step(jnp.ones(()), second)) == 3.0


def test_compiles_from_abstract_shapes_and_tells_its_cost():
    step = compile_step(lambda x, w: dense(x, w))
    assert step.cost == {} and step.memory is None
    step.compile(jax.ShapeDtypeStruct((4, 64), jnp.float32), jax.ShapeDtypeStruct((64, 32), jnp.float32))
    assert step.cost["flops"] == pytest.approx(2 * 4 * 64 * 32, rel=0.05)
    memory = step.memory
    assert memory is not None
    assert memory["argument"] == (4 * 64 + 64 * 32) * 4 and memory["output"] == 4 * 32 * 4
    assert memory["total"] == memory["argument"] + memory["output"] + memory["temporary"] - memory["alias"]
    step(jnp.ones((4, 64)), jnp.ones((64, 32)))
    assert step.compilations == 1


def test_donated_buffers_are_reused():
    step = compile_step(lambda state, x: state + x, donate=(0,))
    state = jnp.zeros(1024)
    result = step(state, jnp.ones(1024))
    assert (step.memory or {})["alias"] == 4096
    assert state.is_deleted() and float(result[0]) == 1.0


def model():
    spec = {"layers": stack_spec(CONFIG, 2), "head": {"kernel": ParamSpec((16, 8), ("embed", "vocab"))}}

    def loss(params, batch):
        x, _ = run_stack(lambda p, x: block(CONFIG, FLOAT32, p, x, None), params["layers"], batch["x"], layers=2)
        logits = dense(masked_mean(x), params["head"]["kernel"])
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, batch["y"][:, None], 1)[:, 0])

    def step(params, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

    return spec, step


def run(step, spec, mesh, rules, steps=2):
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * draw.normal(size=s.shape), jnp.float32), spec)
    batch = {
        "x": jnp.asarray(draw.normal(size=(16, 3, 16)), jnp.float32),
        "y": jnp.asarray(draw.integers(0, 8, 16), jnp.int32),
    }
    placed = shardings(spec, mesh, rules)
    by_row = {"x": batch_sharding(mesh, 3), "y": batch_sharding(mesh, 1)}
    compiled = compile_step(
        step, mesh=mesh, in_shardings=(placed, by_row), out_shardings=(placed, replicated_sharding(mesh)), donate=(0,)
    )
    params, batch = jax.device_put(params, placed), jax.device_put(batch, by_row)
    losses = []
    for _ in range(steps):
        params, value = compiled(params, batch)
        losses.append(float(value))
    assert compiled.compilations == 1
    return jax.tree.map(np.asarray, params), losses, compiled


def test_training_gives_the_same_numbers_on_one_and_eight_devices():
    spec, step = model()
    reference, losses, _ = run(step, spec, make_mesh(1), RULES["replicated"])
    assert losses[1] < losses[0]
    for rules, mesh in [("replicated", make_mesh(8)), ("fsdp", make_mesh(8)), ("tensor", make_mesh(2, 4))]:
        params, values, compiled = run(step, spec, mesh, RULES[rules])
        np.testing.assert_allclose(values, losses, rtol=1e-5, err_msg=rules)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, reference)
        text = compiled.compiled.as_text()
        assert "all-reduce" in text or "reduce-scatter" in text
        assert ("all-gather" in text) == (rules == "fsdp") or rules == "tensor"


def test_counts_start_at_zero():
    step = compile_step(lambda x: x)
    assert (step.compilations, step.compile_seconds, step.compiled) == (0, 0.0, None)


def test_module_parameters_may_be_donated_and_replaced():
    spec = {"w": ParamSpec((4,), (None,), module.ones)}
    step = compile_step(lambda p, x: jax.tree.map(lambda w: w + x, p), donate=(0,))
    params = step(module.init(jax.random.key(0), spec), jnp.float32(1.0))
    assert float(params["w"][0]) == 2.0


def test_compiler_options_reach_the_compiler():
    step = compile_step(lambda x: x + 1.0, compiler_options={"xla_cpu_no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_no_such_option"):
        step.compile(jnp.zeros(2))
    step = compile_step(lambda x: x + 1.0, compiler_options={"xla_disable_hlo_passes": "while-loop-simplifier"})
    assert step(jnp.zeros(2)).tolist() == [1.0, 1.0]
