"""Pfeiffer, parallel and Compacter adapters against their definitions in NumPy."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import compacter, parallel, pfeiffer, split, trainable
from erel_jax.encoders import BertConfig, bert
from erel_jax.errors import ConfigError
from erel_jax.layers import BFLOAT16, FLOAT32, BlockConfig, dense, mlp, run_stack, stack_spec
from erel_jax.layers import block as transformer_block
from erel_jax.layers.kernels import Kronecker, MoreInputs
from erel_jax.layers.mlp import mlp_spec

CONFIG = BlockConfig(width=8, heads=2, mlp_width=16)
SPEC = {"layers": stack_spec(CONFIG, 2)}
WRAPS = {
    "pfeiffer": lambda: pfeiffer(SPEC, bottleneck=4),
    "parallel": lambda: parallel(SPEC, bottleneck=4),
    "compacter": lambda: compacter(SPEC, bottleneck=4, terms=2),
}


def drawn(spec, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray((0.3 * draw.normal(size=s.shape)).astype(np.float32)), spec)


PARAMS = drawn(SPEC)
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32))


@jax.jit
def forward(params, x):
    return run_stack(lambda p, x: transformer_block(CONFIG, FLOAT32, p, x, None), params["layers"], x, layers=2)[0]


@pytest.mark.parametrize("name", WRAPS)
def test_starts_unchanged(name):
    fresh = module.fill(jax.random.key(0), WRAPS[name](), PARAMS)
    np.testing.assert_array_equal(forward(fresh, X), forward(PARAMS, X))
    assert np.abs(np.asarray(forward(drawn(WRAPS[name]()), X)) - np.asarray(forward(PARAMS, X))).max() > 1e-2


def test_pfeiffer_stands_after_one_sub_layer():
    def wrapped(spec):
        return [path for path in tree.paths(spec) if path.endswith("/up_bias")]

    assert wrapped(pfeiffer(SPEC)) == ["layers/attention/output/kernel/up_bias"]
    assert wrapped(pfeiffer(SPEC, after="mlp")) == ["layers/mlp/down/kernel/up_bias"]
    with pytest.raises(ConfigError, match="Did you mean 'mlp'"):
        pfeiffer(SPEC, after=cast(Any, "mlps"))


def test_parallel_adds_a_scaled_bottleneck_to_the_mlp():
    plain = mlp_spec(8, 16)
    spec = parallel({"layers": {"mlp": plain}}, bottleneck=4, scale=2.0)["layers"]["mlp"]
    params = drawn(spec, seed=3)
    p = {path: np.asarray(leaf, np.float64) for path, leaf in tree.paths(params).items()}
    x = np.asarray(X, np.float64)
    got = jax.jit(lambda p, x: mlp(p, x, activation_name="relu", precision=FLOAT32))(params, X)
    hidden = np.maximum(x @ p["up/kernel/base"] + p["up/bias"], 0)
    inner = np.maximum(x @ p["up/kernel/extra"] + p["up/kernel/extra_bias"], 0)
    added = inner @ p["down/kernel/extra"] + p["down/kernel/extra_bias"]
    expected = hidden @ p["down/kernel/base"] + p["down/bias"] + 2.0 * added
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_parallel_widens_chosen_mlps_and_no_gated_ones():
    spec = {"a": {"mlp": mlp_spec(8, 16)}, "b": {"mlp": mlp_spec(8, 16)}}
    chosen = parallel(spec, ["b/mlp"], bottleneck=4)
    assert chosen["a"] == spec["a"] and isinstance(chosen["b"]["mlp"]["down"]["kernel"], MoreInputs)
    spec["a"]["mlp"]["gate"] = spec["a"]["mlp"]["up"]
    assert parallel(spec, ["b/mlp"], bottleneck=4)["a"] == spec["a"]
    with pytest.raises(ConfigError, match=r"a/mlp/gate/kernel.*gated"):
        parallel(spec, bottleneck=4)


def test_kronecker_product_is_that_of_the_formed_matrix():
    draw = np.random.default_rng(5)
    rules, left, right = (draw.normal(size=shape).astype(np.float32) for shape in ((2, 2, 2), (2, 4), (2, 3)))
    weight = sum(np.kron(rules[i], np.outer(left[i], right[i])) for i in range(2))
    kernel = Kronecker(*map(jnp.asarray, (rules, left, right)))
    bias = jnp.arange(6, dtype=jnp.float32)
    np.testing.assert_allclose(jax.jit(dense)(X, kernel, bias), np.asarray(X) @ weight + np.arange(6), atol=1e-5)


def test_gradients_exist_for_the_adapters_alone():
    """That they are not zero is shown by the training steps of `tests/multi_device`."""
    for name, patterns, leaves in (("parallel", trainable.PARALLEL, 4), ("compacter", trainable.COMPACTER, 16)):
        trains, frozen = split(drawn(WRAPS[name]()), patterns)
        gradient = jax.eval_shape(jax.grad(lambda t, f: jnp.sum(forward(tree.merge(t, f), X) ** 2)), trains, frozen)
        found = tree.paths(gradient)
        assert len(found) == leaves
        assert not [path for path in found if path.endswith("/base")]


def test_counts_on_a_full_size_encoder():
    spec = bert(BertConfig()).module.spec
    for wrapped, patterns, per_layer in (
        (pfeiffer(spec), trainable.HOULSBY, 2 * 768 * 64 + 64 + 768),
        (parallel(spec), trainable.PARALLEL, 2 * 768 * 64 + 64 + 768),
        (compacter(spec), trainable.COMPACTER, 2 * (2 * 64 + 2 * (768 + 64) + 64 + 768)),
    ):
        assert module.count(split(wrapped, patterns)[0]) == 12 * per_layer == module.count(wrapped) - module.count(spec)
    assert module.count(split(spec, trainable.LAYER_NORM)[0]) == 25 * 2 * 768


def test_bad_sizes():
    with pytest.raises(ConfigError, match="terms=3 must divide"):
        compacter(SPEC, bottleneck=6, terms=3)
    for wrap in (compacter, parallel, pfeiffer):
        with pytest.raises(ConfigError, match="bottleneck=0"):
            wrap(SPEC, bottleneck=0)


@pytest.mark.parametrize("rows", [(8,), (2, 4)])
def test_kronecker_products_train_in_half_precision(rows):
    """Half-precision products of some layouts compile on CPU and fail when they run."""
    draw = np.random.default_rng(0)
    kernel = Kronecker(*(jnp.asarray(draw.normal(size=s), jnp.float32) for s in ((4, 4, 4), (4, 8), (4, 6))))
    x = jnp.asarray(draw.normal(size=(*rows, 32)), jnp.float32)

    def scalar(kernel, x, precision):
        return jnp.mean(kernel.dense(x, None, precision) ** 2)

    step = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1)), static_argnums=2)
    (value, gradients), (half, halves) = step(kernel, x, FLOAT32), step(kernel, x, BFLOAT16)
    np.testing.assert_allclose(half, value, rtol=0.03)
    for got, expected in zip(jax.tree.leaves(halves), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(got, expected, atol=0.05 * float(jnp.max(jnp.abs(expected))))
