"""The user encoder against a NumPy forward pass written from its definition."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.errors import ConfigError
from erel_jax.recommendation import SasrecConfig, sasrec

CONFIG = SasrecConfig(width=12, max_length=5, heads=3, blocks=2, mlp_ratio=2)


@functools.cache
def _initialized():
    """Encoder, parameters with norms and biases away from 1 and 0 so that each matters, and the compiled encoder."""
    encoder = sasrec(CONFIG)
    rng = np.random.default_rng(1)

    def draw(leaf):
        return jnp.asarray(float(leaf.ndim == 1) + rng.normal(scale=0.3, size=leaf.shape), jnp.float32)

    return encoder, jax.tree.map(draw, module.abstract(encoder.spec)), jax.jit(encoder.apply)


def _norm(params, x, eps=1e-6):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps) * params["scale"] + params["bias"]


def _softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _reference(params, embeddings, mask, heads):
    """One window at a time, one head at a time; additive mask -1e9 as published."""
    states = []
    for window, real in zip(embeddings.astype(np.float64), mask, strict=True):
        length, width = window.shape
        x = _norm(params["input_norm"], window + params["position"]["table"])
        hidden = np.where(np.tril(np.ones((length, length))).astype(bool) & real[None, :], 0.0, -1e9)
        for block in params["blocks"].values():
            attention = block["attention"]
            query, key, value = (x @ attention[name]["kernel"] for name in ("query", "key", "value"))
            parts = []
            for head in np.split(np.arange(width), heads):
                logits = query[:, head] @ key[:, head].T / np.sqrt(width / heads) + hidden
                parts.append(_softmax(logits) @ value[:, head])
            x = _norm(block["attention_norm"], x + np.concatenate(parts, -1) @ attention["output"]["kernel"])
            up = np.maximum(x @ block["mlp"]["up"]["kernel"] + block["mlp"]["up"]["bias"], 0)
            x = _norm(block["mlp_norm"], x + up @ block["mlp"]["down"]["kernel"] + block["mlp"]["down"]["bias"])
        states.append(x)
    return np.stack(states)


def _inputs(users=6):
    rng = np.random.default_rng(0)
    mask = np.arange(CONFIG.max_length)[None, :] >= rng.integers(0, CONFIG.max_length, users)[:, None]
    return rng.normal(size=(users, CONFIG.max_length, CONFIG.width)).astype(np.float32), mask


def test_equals_the_definition():
    _, params, apply = _initialized()
    embeddings, mask = _inputs()
    states = apply(params, embeddings, mask)
    expected = _reference(jax.tree.map(np.asarray, params), embeddings, mask, CONFIG.heads)
    np.testing.assert_allclose(np.asarray(states)[mask], expected[mask], atol=1e-5)


def test_parameter_count_of_the_published_sizes():
    encoder = sasrec()
    assert module.count(encoder.spec) == 100_224
    abstract = module.abstract(encoder.spec)
    states = jax.eval_shape(
        encoder.apply,
        abstract,
        jax.ShapeDtypeStruct((4096, 10, 64), jnp.float32),
        jax.ShapeDtypeStruct((4096, 10), bool),
    )
    assert (states.shape, states.dtype) == ((4096, 10, 64), jnp.float32)


def test_initial_values_are_xavier_normal_with_zero_biases():
    params = tree.paths(jax.jit(lambda key: module.init(key, sasrec().spec))(jax.random.key(3)))
    for path, leaf in params.items():
        if leaf.ndim == 2:
            fan_in, fan_out = leaf.shape
            # The table has 640 values, so its sample deviation strays by about 3 %.
            assert np.std(leaf) == pytest.approx(np.sqrt(2 / (fan_in + fan_out)), rel=0.12), path
        else:
            np.testing.assert_array_equal(leaf, 1.0 if path.endswith("scale") else 0.0)


def test_future_and_padding_do_not_reach_a_state():
    _, params, apply = _initialized()
    embeddings, mask = _inputs()
    states = np.asarray(apply(params, embeddings, mask))
    padded = np.where(mask[:, :, None], embeddings, 1e3).astype(np.float32)
    np.testing.assert_allclose(np.asarray(apply(params, padded, mask))[mask], states[mask], atol=1e-6)
    later = embeddings.copy()
    later[:, -1] *= -1.0
    changed = np.asarray(apply(params, later, mask))
    np.testing.assert_allclose(changed[:, :-1][mask[:, :-1]], states[:, :-1][mask[:, :-1]], atol=1e-6)
    assert np.abs(changed[:, -1] - states[:, -1]).max() > 1e-2


def test_empty_windows_have_finite_states_and_gradients():
    encoder, params, _ = _initialized()
    embeddings, mask = _inputs()
    loss = jax.jit(jax.value_and_grad(lambda params: jnp.sum(encoder.apply(params, embeddings, mask & False) ** 2)))
    value, gradients = loss(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_dropout_needs_both_a_key_and_training():
    encoder = sasrec(dataclasses.replace(CONFIG, dropout=0.5))
    _, params, plain_apply = _initialized()
    embeddings, mask = _inputs()
    plain = plain_apply(params, embeddings, mask)
    np.testing.assert_array_equal(plain_apply(params, embeddings, mask, key=jax.random.key(1)), plain)
    apply = jax.jit(encoder.apply, static_argnames="train")
    np.testing.assert_array_equal(apply(params, embeddings, mask, train=True), plain)
    one, two = (apply(params, embeddings, mask, key=jax.random.key(seed), train=True) for seed in (1, 2))
    assert np.abs(one - plain).max() > 0.1
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(apply(params, embeddings, mask, key=jax.random.key(1), train=True), one)


def test_wrong_sizes_are_refused():
    for change in ({"width": 0}, {"heads": 5}, {"dropout": 1.0}):
        with pytest.raises(ConfigError):
            dataclasses.replace(CONFIG, **change)
    encoder, params, _ = _initialized()
    with pytest.raises(ConfigError, match=r"expected \[B, 5, 12\]"):
        encoder.apply(params, jnp.zeros((2, 4, 12)), jnp.ones((2, 4), bool))
