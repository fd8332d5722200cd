"""Activations by name, dropout, precision names, and the feed-forward layer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.errors import ConfigError
from erel_jax.layers import BFLOAT16, FLOAT32, activation, dropout, mlp, mlp_spec
from erel_jax.layers.precision import named

X = np.linspace(-3, 3, 13)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
        ("gelu_new", lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("gelu_pytorch_tanh", lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("quick_gelu", lambda x: x / (1 + math.exp(-1.702 * x))),
        ("relu", lambda x: max(x, 0.0)),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("tanh", math.tanh),
    ],
)
def test_formulas(name, formula):
    expected = [formula(x) for x in X]
    np.testing.assert_allclose(activation(name)(jnp.asarray(X, jnp.float32)), expected, atol=1e-6)
    assert activation(name)(jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16


def test_gelu_is_exact_far_out():
    x = np.concatenate([np.linspace(-20, 20, 401), [-1e30, 0.0, 1e30]])
    exact = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in x])
    np.testing.assert_allclose(activation("gelu")(jnp.asarray(x, jnp.float32)), exact, rtol=1e-6, atol=2e-6)


def test_unknown_activation_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'quick_gelu'"):
        activation("quickgelu")


def test_dropout_scales_what_it_keeps():
    x = jnp.ones(10_000)
    dropped = dropout(x, 0.25, jax.random.key(0), train=True)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert float(jnp.mean(dropped)) == pytest.approx(1.0, abs=0.03)


def test_dropout_is_the_identity_outside_training():
    x = jnp.ones(10)
    for rate, key, train in [(0.5, jax.random.key(0), False), (0.5, None, True), (0.0, jax.random.key(0), True)]:
        assert dropout(x, rate, key, train) is x


def test_precision_by_name():
    assert named("float32") is FLOAT32 and named("bfloat16") is BFLOAT16
    with pytest.raises(ConfigError, match="float16"):
        named("float16")


def test_mlp_against_numpy():
    params = module.init(jax.random.key(0), mlp_spec(4, 6, kernel_init=module.normal(1.0)))
    x = jax.random.normal(jax.random.key(1), (2, 3, 4))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    expected = np.tanh(np.asarray(x) @ p["up"]["kernel"]) @ p["down"]["kernel"]
    np.testing.assert_allclose(mlp(params, x, activation_name="tanh", precision=FLOAT32), expected, atol=1e-5)
    assert module.count(mlp_spec(4, 6)) == 4 * 6 + 6 + 6 * 4 + 4


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_an_activation_keeps_its_argument_alone_for_the_backward_pass(precision):
    x = jnp.asarray(np.linspace(-4, 4, 64), jnp.float32)
    y, pull = jax.vjp(activation("gelu", precision), x)
    (kept,) = (leaf for leaf in jax.tree.leaves(pull) if leaf.size == x.size)
    assert kept.dtype.itemsize == precision.compute(0).itemsize
    slope = [0.5 * (1 + math.erf(v / math.sqrt(2))) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in x]
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0], slope, atol=1e-6 if precision is FLOAT32 else 1e-2)
