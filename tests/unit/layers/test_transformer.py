"""The block against its definition, and the stack: taps, depth, unrolling, rematerialization."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, block, block_spec, run_stack, self_attention, stack_spec, unrolled

CONFIG = BlockConfig(width=8, heads=2, mlp_width=16, activation="gelu", norm="pre", eps=1e-6)
POST = BlockConfig(width=8, heads=2, mlp_width=16, activation="relu", norm="post", eps=1e-12)
LAYERS = 3


def stack_case(config=CONFIG):
    return random_like(stack_spec(config, LAYERS)), jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 8)), "f4")


def random_like(spec):
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.2 * draw.normal(size=s.shape), jnp.float32), spec)


def layer(params, x, config=CONFIG):
    return block(config, FLOAT32, params, x, None)


@jax.jit
def states_one_by_one(params, x):
    states = [x]
    for k in range(LAYERS):
        states.append(layer(jax.tree.map(lambda p, k=k: p[k], params), states[-1]))
    return states


def numpy_norm(p, x, eps):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def test_block_is_pre_or_post_norm():
    params, x = random_like(block_spec(POST)), stack_case()[1]

    def attention(y):
        return np.asarray(self_attention(params["attention"], jnp.asarray(y), None, heads=2, precision=FLOAT32))

    def relu_mlp(y):
        p = jax.tree.map(np.asarray, params["mlp"])
        return np.maximum(y @ p["up"]["kernel"] + p["up"]["bias"], 0) @ p["down"]["kernel"] + p["down"]["bias"]

    plain = jax.tree.map(np.asarray, params)
    y = numpy_norm(plain["attention_norm"], np.asarray(x) + attention(x), 1e-12)
    post = numpy_norm(plain["mlp_norm"], y + relu_mlp(y), 1e-12)
    compiled = jax.jit(block, static_argnums=(0, 1))
    np.testing.assert_allclose(compiled(POST, FLOAT32, params, x, None), post, atol=1e-5)

    pre_config = BlockConfig(width=8, heads=2, mlp_width=16, activation="relu", norm="pre", eps=1e-12)
    y = np.asarray(x) + attention(numpy_norm(plain["attention_norm"], np.asarray(x), 1e-12))
    pre = y + relu_mlp(numpy_norm(plain["mlp_norm"], y, 1e-12))
    np.testing.assert_allclose(compiled(pre_config, FLOAT32, params, x, None), pre, atol=1e-5)


def test_scan_equals_the_loop_and_emits_every_state():
    params, x = stack_case()
    expected = states_one_by_one(params, x)
    final, emitted = run_stack(layer, params, x, layers=LAYERS, emit=lambda state: state[:, 0])
    np.testing.assert_allclose(final, expected[-1], atol=1e-5)
    assert emitted.shape == (LAYERS + 1, 2, 8)
    np.testing.assert_allclose(emitted, np.stack([s[:, 0] for s in expected]), atol=1e-5)


@pytest.mark.parametrize("depth", [0, 2])
def test_depth_runs_the_first_layers_only(depth):
    params, x = stack_case()
    expected = states_one_by_one(params, x)
    final, emitted = run_stack(layer, params, x, layers=LAYERS, depth=depth, emit=lambda s: s[:, 0])
    np.testing.assert_allclose(final, expected[depth], atol=1e-5)
    assert emitted.shape == (depth + 1, 2, 8)

    def flops(depth):
        with unrolled():
            program = jax.jit(lambda p, x: run_stack(layer, p, x, layers=LAYERS, depth=depth)[0])
            return (program.lower(params, x).compile().cost_analysis() or {}).get("flops", 0.0)

    if depth:
        assert flops(depth) < flops(LAYERS) * (depth / LAYERS + 0.1)


def test_unused_layers_get_no_gradient():
    params, x = stack_case()
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(run_stack(layer, p, x, layers=LAYERS, depth=2)[0] ** 2)))(params)
    kernel = gradient["mlp"]["up"]["kernel"]
    assert np.any(np.asarray(kernel[:2])) and not np.any(np.asarray(kernel[2:]))


def test_gradients_equal_the_loop():
    params, x = stack_case()

    def scanned(params, x, remat=False):
        final, taps = run_stack(layer, params, x, layers=LAYERS, emit=lambda s: s[:, 0], remat=remat)
        return jnp.sum(jnp.sin(final)) + jnp.sum(jnp.cos(taps))

    def looped(params, x):
        states = states_one_by_one(params, x)
        return jnp.sum(jnp.sin(states[-1])) + sum(jnp.sum(jnp.cos(s[:, 0])) for s in states)

    @jax.jit
    def gradients(params, x):
        again = partial(scanned, remat=True)
        return [jax.grad(fn, argnums=(0, 1))(params, x) for fn in (scanned, looped, again)]

    ours, theirs, rematerialized = gradients(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, rematerialized)


def test_unrolling_changes_the_count_of_flops_and_nothing_else():
    params, x = stack_case()

    def run(params, x):
        return run_stack(layer, params, x, layers=LAYERS)[0]

    scanned = jax.jit(lambda p, x: run(p, x)).lower(params, x).compile()
    with unrolled():
        flat = jax.jit(lambda p, x: run(p, x)).lower(params, x).compile()
    np.testing.assert_allclose(scanned(params, x), flat(params, x), atol=1e-6)

    def flops(program):
        return (program.cost_analysis() or {})["flops"]

    # XLA counts a loop's body once; if this ever fails, measuring needs no unrolled copy any more.
    assert 2.2 < flops(flat) / flops(scanned) < 3.3


def test_no_tokens_of_a_layer_are_kept_for_taps():
    params, x = stack_case()
    jaxpr = jax.make_jaxpr(lambda p, x: run_stack(layer, p, x, layers=LAYERS, emit=lambda s: jnp.mean(s, axis=1))[1])(
        params, x
    )
    shapes = {getattr(v.aval, "shape", None) for eqn in jaxpr.eqns for v in eqn.outvars}
    assert (LAYERS, 2, 8) in shapes and (LAYERS, 2, 3, 8) not in shapes


def test_impossible_depth_is_refused():
    params, x = stack_case()
    with pytest.raises(ConfigError, match="got depth 5, expected 0 to 3"):
        run_stack(layer, params, x, layers=LAYERS, depth=5)


def test_unknown_norm_is_refused():
    with pytest.raises(ConfigError, match="expected 'pre' or 'post'"):
        BlockConfig(width=8, heads=2, mlp_width=16, norm="none")


def test_branch_scales_multiply_what_each_sub_layer_adds():
    config = BlockConfig(width=8, heads=2, mlp_width=12)
    plain = random_like(block_spec(config, bias=("query", "value", "output")))
    assert "bias" not in plain["attention"]["key"] and "bias" in plain["attention"]["query"]
    assert set(block_spec(config, branch_scale=0.5)) - set(plain) == {"attention_scale", "mlp_scale"}
    x = jax.random.normal(jax.random.key(1), (2, 5, 8))
    ones = {"scale": jnp.ones(8)}
    only_first = jnp.zeros(8).at[0].set(1.0)
    scaled = block(config, FLOAT32, plain | {"attention_scale": ones, "mlp_scale": ones}, x, None)
    np.testing.assert_array_equal(scaled, block(config, FLOAT32, plain, x, None))
    first = {"scale": only_first}
    out = block(config, FLOAT32, plain | {"attention_scale": first, "mlp_scale": first}, x, None)
    np.testing.assert_array_equal(out[..., 1:], x[..., 1:])
    assert np.abs(out[..., 0] - x[..., 0]).max() > 0
