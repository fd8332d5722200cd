"""Adam against its definition in NumPy; patterns, schedules and refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.errors import ConfigError
from erel_jax.training import adam
from erel_jax.training.optimizer import multiplier


def adam_by_definition(values, gradients, rate, decay=0.0, clip=None, factors=None):
    """One parameter in float64, textbook form."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        if clip is not None:
            g = g * min(1.0, clip / np.sqrt((g**2).sum()))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        values = values - rate * (factors[t - 1] if factors is not None else 1.0) * (direction + decay * values)
    return values


def run(optimizer: Any, params, gradients) -> Any:
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return params


@pytest.fixture
def gradients():
    random = np.random.default_rng(0)
    return [random.normal(size=(3, 2)) for _ in range(5)]


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, {}),
        ({"weight_decay": 0.1}, {"decay": 0.1}),
        ({"clip_norm": 0.5}, {"clip": 0.5}),
        ({"warmup_steps": 4}, {"factors": [0.25, 0.5, 0.75, 1.0, 1.0]}),
        (
            {"warmup_steps": 1, "schedule": "cosine", "total_steps": 5},
            {"factors": [1.0, 1.0, (1 + np.cos(np.pi / 4)) / 2, 0.5, (1 + np.cos(3 * np.pi / 4)) / 2]},
        ),
    ],
)
def test_adam_equals_its_definition(gradients, options, reference):
    start = np.random.default_rng(1).normal(size=(3, 2))
    params = {"kernel": jnp.asarray(start, jnp.float32), "frozen": None}
    trees = [{"kernel": jnp.asarray(g, jnp.float32), "frozen": None} for g in gradients]
    result = run(adam(0.05, **options), params, trees)
    assert result["frozen"] is None
    np.testing.assert_allclose(result["kernel"], adam_by_definition(start, gradients, 0.05, **reference), atol=2e-6)


def test_biases_and_scales_are_not_decayed():
    params = {name: jnp.ones((2,)) for name in ("kernel", "bias", "scale")}
    zero = jax.tree.map(jnp.zeros_like, params)
    result = run(adam(0.1, weight_decay=0.5), params, [zero])
    np.testing.assert_allclose(result["kernel"], 0.95, atol=1e-6)
    np.testing.assert_array_equal(result["bias"], 1.0)
    np.testing.assert_array_equal(result["scale"], 1.0)


def test_first_matching_pattern_gives_the_rate():
    params = {"text": {"kernel": jnp.zeros(2), "bias": jnp.zeros(2)}, "head": {"kernel": jnp.zeros(2)}}
    ones = jax.tree.map(jnp.ones_like, params)
    result = run(adam([("text/bias", 0.5), ("text/.*", 0.25), (".*", 0.125)]), params, [ones])
    steps = {path: -float(value[0]) for path, value in tree.paths(result).items()}
    # Adam's first step is the rate itself, whatever the gradient; optax forms 1 - 0.999 in float32.
    assert steps == pytest.approx({"head/kernel": 0.125, "text/bias": 0.5, "text/kernel": 0.25}, rel=2e-5)


def test_parameter_without_a_rate_is_named():
    with pytest.raises(ConfigError, match=r"matches 1 trainable parameters: head/kernel"):
        adam([("text/.*", 0.1)]).init({"text": {"kernel": jnp.zeros(2)}, "head": {"kernel": jnp.zeros(2)}})


def test_pattern_without_a_parameter_is_named():
    with pytest.raises(ConfigError, match=r"'heed/\.\*' matches no parameter"):
        adam([("heed/.*", 0.1), (".*", 0.2)]).init({"head": {"kernel": jnp.zeros(2)}})


def test_moments_exist_for_trainable_parameters_alone():
    trainable: Any = {"a": jnp.zeros((3, 4)), "b": None}
    state = adam(0.1).init(trainable)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * 12 + 1


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": []},
        {"learning_rate": [(".*", -1.0)]},
        {"weight_decay": -0.1},
        {"clip_norm": 0.0},
        {"warmup_steps": -1},
        {"schedule": "linear"},
        {"schedule": "cosine"},
        {"schedule": "cosine", "total_steps": 5, "warmup_steps": 5},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        adam(**{"learning_rate": 0.1, **options})


def test_cosine_stays_at_zero_after_the_end():
    factor = multiplier(0, "cosine", 10)
    values = [float(factor(jnp.int32(count))) for count in (0, 5, 10, 20)]
    assert values == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-7)
