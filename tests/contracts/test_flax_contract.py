"""Both crossings between our modules and linen's keep outputs and gradients, for everything that is a module."""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import layers, tree
from erel_jax.adapters.iisan import iisan
from erel_jax.adapters.side_tower import side_tower
from erel_jax.encoders import ENCODERS
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError
from erel_jax.interop.flax import from_linen, to_linen
from erel_jax.layers import FLOAT32, BlockConfig, LowRank, Quantized
from erel_jax.module import Module, ParamSpec, count, init, ones
from erel_jax.recommendation.compact_sasrec import compact_sasrec
from erel_jax.recommendation.sasrec import SasrecConfig, sasrec

B, L, D, F = 2, 5, 8, 12
USER = SasrecConfig(width=D, max_length=L)
BLOCK = BlockConfig(width=D, heads=2, mlp_width=F, activation="gelu_new")


def leaf(*shape):
    return ParamSpec(shape, (None,) * len(shape))


def dense_over(kernel):
    return Module({"kernel": kernel}, lambda p, x, key=None, train=False: layers.dense(x, p["kernel"], None, FLOAT32))


def encoder_module(name):
    return ENCODERS[name].build(ENCODERS[name].config.tiny()).module


MODULES = {
    "dense": lambda: dense_over(leaf(D, F)),
    "low rank": lambda: dense_over(LowRank(leaf(D, F), leaf(D, 2), leaf(2, F), 0.5)),
    "low rank over int8": lambda: dense_over(
        LowRank(
            Quantized(
                ParamSpec((D, F), (None, None), lambda k, s, t: jnp.full(s, 3, t), jnp.int8),
                ParamSpec((F,), (None,), ones),
            ),
            leaf(D, 2),
            leaf(2, F),
        )
    ),
    "layer norm": lambda: Module(
        layers.layer_norm_spec(D), lambda p, x, key=None, train=False: layers.layer_norm(p, x, 1e-6)
    ),
    "block": lambda: Module(
        layers.block_spec(BLOCK), lambda p, x, key=None, train=False: layers.block(BLOCK, FLOAT32, p, x, None)
    ),
    "bare leaf": lambda: Module(leaf(D), lambda p, x, key=None, train=False: x * p[None, None]),
    "side tower": lambda: side_tower(3, D, 4),
    "iisan": lambda: iisan({"image": (3, D), "text": (3, D)}, embedding=6, bottleneck=4),
    "sasrec": lambda: sasrec(USER),
    "compact sasrec": lambda: compact_sasrec(USER),
    **{name: partial(encoder_module, name) for name in ENCODERS},
}
LARGE = {"iisan", "sasrec", "compact sasrec", *ENCODERS}


def states(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


EXAMPLES = {
    "side tower": lambda: (states(B, 3, D),),
    "iisan": lambda: ({"image": states(B, 3, D), "text": states(B, 3, D)},),
    "sasrec": lambda: (states(B, L, D), jnp.asarray(np.arange(L)[None] >= [[0], [3]])),
    "compact sasrec": lambda: (
        states(4, D),
        jnp.asarray([3, 4, 9, 0]),
        jnp.asarray([[-1, -1, -1, 0, 1], [-1, -1, -1, -1, 2]]),
    ),
}


def example(name):
    """Inputs of a module, as a tuple."""
    if name in ENCODERS:
        return (example_inputs(ENCODERS[name].build(ENCODERS[name].config.tiny()), rows=B, length=L),)
    return EXAMPLES[name]() if name in EXAMPLES else (states(B, L, D),)


def drawn(spec):
    draw = np.random.default_rng(1)

    def value(s):
        if jnp.issubdtype(s.dtype, jnp.integer):
            return jnp.asarray(draw.integers(-9, 9, s.shape), s.dtype)
        return jnp.asarray(draw.normal(size=s.shape) * 0.3 + 0.1, s.dtype)

    return jax.tree.map(value, spec)


def total(out):
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(out))


def expect_close(got, expected, tolerance=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# The others are the same blocks, bridged in slow tests.
BRIDGED = {"bert", "llama", "vit", "clip_text_model"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ENCODERS and name not in BRIDGED else name
        for name in sorted(MODULES)
    ],
)
def test_to_linen_and_back(name):
    module, inputs = MODULES[name](), example(name)
    params = drawn(module.spec)
    linen = to_linen(module)
    declared = jax.eval_shape(linen.init, jax.random.key(0), *inputs)["params"]
    inside = params if isinstance(params, dict) else {"tree": params}
    assert jax.tree.structure(declared) == jax.tree.structure(inside)
    assert [a.shape for a in jax.tree.leaves(declared)] == [a.shape for a in jax.tree.leaves(inside)]
    back = from_linen(linen, *inputs)
    assert count(back.spec) == count(module.spec)
    trained, fixed = _split(inside)

    def ours(t):
        merged = tree.merge(t, fixed)
        return total(module.apply(merged if isinstance(params, dict) else merged["tree"], *inputs))

    def theirs(t):
        return total(linen.apply({"params": tree.merge(t, fixed)}, *inputs))

    def returned(t):
        return total(back.apply(tree.merge(t, fixed), *inputs))

    programs = [jax.jit(jax.value_and_grad(f)).lower(trained) for f in (ours, theirs, returned)]
    texts = {re.sub(r"module @\w+", "module", program.as_text()) for program in programs}
    if len(texts) == 1 and name in LARGE:
        return  # the very same program: outputs and gradients cannot differ, and compiling it thrice costs a minute
    values = [program.compile()(trained) for program in programs]
    expect_close(values[1], values[0])
    expect_close(values[2], values[0])


def _split(params):
    """(floating-point leaves, integer leaves), each with None where the other has a leaf."""
    is_float = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating), params)
    trained = jax.tree.map(lambda x, f: x if f else None, params, is_float)
    return trained, jax.tree.map(lambda x, f: None if f else x, params, is_float)


def test_linen_init_draws_what_the_spec_declares():
    module = MODULES["layer norm"]()
    params = to_linen(module).init(jax.random.key(0), *example("layer norm"))["params"]
    np.testing.assert_array_equal(params["scale"], np.ones(D))
    np.testing.assert_array_equal(params["bias"], np.zeros(D))
    kernel = to_linen(MODULES["dense"]()).init(jax.random.key(0), *example("dense"))["params"]["kernel"]
    assert 0.01 < np.std(np.asarray(kernel)) < 0.03


class Head(nn.Module):
    """A linen program around one of our modules."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = to_linen(MODULES["layer norm"]())(x)
        x = nn.Dropout(0.5)(x, deterministic=not train)
        kernel = nn.with_partitioning(nn.initializers.normal(0.1), ("embed", "mlp"))
        return nn.Dense(F, kernel_init=kernel)(x)


def test_ours_inside_linen_inside_ours():
    (x,) = example("dense")
    head = Head()
    module = from_linen(head, x)
    params = init(jax.random.key(3), module.spec)
    assert module.spec["Dense_0"]["kernel"].axes == ("embed", "mlp")
    assert module.spec["Dense_0"]["bias"].axes == (None,)
    expected: Any = head.apply({"params": params}, x)
    np.testing.assert_allclose(module.apply(params, x), expected, atol=1e-6)
    key = jax.random.key(5)
    dropped = module.apply(params, x, key=key, train=True)
    inside: Any = head.apply({"params": params}, x, train=True, rngs={"dropout": key})
    np.testing.assert_allclose(dropped, inside, atol=1e-6)
    assert np.abs(dropped - expected).max() > 1e-3


def test_key_reaches_a_module_inside_linen():
    module = Module({}, lambda p, x, key=None, train=False: layers.dropout(x, 0.5, key, train))
    linen, x = to_linen(module), jnp.ones((1, 1, 64))
    kept: Any = linen.apply({"params": {}}, x, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(kept, x)
    dropped: Any = linen.apply({"params": {}}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(dropped)) == {0.0, 2.0}


def test_a_linen_module_with_state_is_refused():
    with pytest.raises(ConfigError, match="batch_stats"):
        from_linen(nn.BatchNorm(use_running_average=False), *example("dense"))


def expect_equal_gradients(ours, params, linen, variables, x):
    """Outputs and input gradients of a layer of ours and its linen oracle agree."""
    mine = jax.jit(jax.value_and_grad(lambda y: total(ours(params, y))))(x)
    oracle = jax.jit(jax.value_and_grad(lambda y: total(linen.apply({"params": variables}, y))))(x)
    expect_close(mine, oracle, 1e-5)


def test_linen_is_the_oracle_of_dense_norm_and_embedding():
    (x,) = example("dense")
    params = drawn({"kernel": leaf(D, F), "bias": leaf(F)})
    expect_equal_gradients(lambda p, y: layers.dense(y, p["kernel"], p["bias"]), params, nn.Dense(F), params, x)
    params = drawn(layers.layer_norm_spec(D))
    expect_equal_gradients(
        lambda p, y: layers.layer_norm(p, y, 1e-6), params, nn.LayerNorm(use_fast_variance=False), params, x
    )
    table, ids = drawn(leaf(9, D)), jnp.asarray([[0, 8, 3]])
    np.testing.assert_array_equal(
        layers.embed_tokens(table, ids), nn.Embed(9, D).apply({"params": {"embedding": table}}, ids)
    )


def test_linen_is_the_oracle_of_attention():
    (x,), heads = example("block"), 2
    params = drawn(layers.attention_spec(D))
    mask = jnp.asarray(np.tril(np.ones((L, L), bool)))[None, None]
    split = {
        name: {"kernel": p["kernel"].reshape(D, heads, D // heads), "bias": p["bias"].reshape(heads, D // heads)}
        for name, p in params.items()
        if name != "output"
    }
    out = {"kernel": params["output"]["kernel"].reshape(heads, D // heads, D), "bias": params["output"]["bias"]}
    linen = nn.MultiHeadDotProductAttention(num_heads=heads)

    def mine(y):
        return total(layers.self_attention(params, y, mask, heads=heads, precision=FLOAT32))

    def oracle(y):
        return total(linen.apply({"params": {**split, "out": out}}, y, y, mask=mask))

    expect_close(jax.jit(jax.value_and_grad(mine))(x), jax.jit(jax.value_and_grad(oracle))(x), 1e-5)


def test_linen_convolution_is_the_oracle_of_patch_embedding():
    draw = np.random.default_rng(2)
    images = jnp.asarray(draw.normal(size=(B, 9, 6, 3)), jnp.float32)
    params = drawn({"kernel": leaf(3 * 3 * 3, D), "bias": leaf(D)})
    ours = layers.embed_patches(params, images, 3, FLOAT32)
    linen = nn.Conv(D, (3, 3), strides=(3, 3), padding="VALID")
    theirs: Any = linen.apply({"params": {**params, "kernel": params["kernel"].reshape(3, 3, 3, D)}}, images)
    np.testing.assert_allclose(ours, theirs.reshape(B, 6, D), atol=1e-5)
