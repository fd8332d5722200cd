"""A static query tower: what it computes, and that its fit recovers a linear document tower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.compression.static_tower import StaticConfig, static_from_document, static_loss, static_tower
from erel_jax.errors import ConfigError, NonFiniteError

DRAW = np.random.default_rng(0)
TABLE = DRAW.normal(size=(30, 6)).astype(np.float32)
IDS = DRAW.integers(0, 30, (80, 5)).astype(np.int32)
MASK = np.arange(5)[None] < DRAW.integers(1, 6, 80)[:, None]
TEXTS = {"ids": IDS, "mask": MASK}
MEANS = np.stack([TABLE[row[real]].mean(0) for row, real in zip(IDS, MASK, strict=True)])


def test_it_averages_and_projects():
    encoder = static_tower(StaticConfig(vocabulary=30, width=6, embedding_width=4, max_positions=8))
    params = module.init(jax.random.key(0), encoder.module.spec)
    params = {**params, "token": {"table": jnp.asarray(TABLE)}}
    kernel, bias = np.asarray(params["projection"]["kernel"]), jnp.arange(4.0)
    params["projection"]["bias"] = bias
    out = jax.jit(encoder.module.apply)(params, TEXTS)
    np.testing.assert_allclose(out.embedding, MEANS @ kernel + np.arange(4.0), atol=1e-5)
    empty = encoder.module.apply(params, {"ids": IDS[:1], "mask": np.zeros((1, 5), bool)})
    np.testing.assert_allclose(empty.embedding[0], bias)
    for options in ({"taps": (0,)}, {"tokens": True}, {"hidden_states": True}, {"embedding": False}):
        with pytest.raises(ConfigError, match="embedding alone"):
            encoder.module.apply(params, TEXTS, **options)
    with pytest.raises(ConfigError, match="positions for 8"):
        encoder.module.apply(params, {"ids": np.zeros((1, 9), np.int32), "mask": np.ones((1, 9), bool)})


def test_least_squares_recovers_a_linear_tower_and_steps_fit_what_it_cannot():
    mix = DRAW.normal(size=(6, 4))
    linear = MEANS @ mix + 3.0
    linear /= np.linalg.norm(linear, axis=1, keepdims=True)
    encoder, params = static_from_document(TABLE, TEXTS, linear, ridge=1e-6)
    assert encoder.embedding_width == 4 and encoder.config.vocabulary == 30
    design = np.concatenate([MEANS, np.ones((80, 1))], axis=1)
    best = design @ np.linalg.lstsq(design, linear, rcond=None)[0]
    fitted = encoder.module.apply(params, TEXTS).embedding
    np.testing.assert_allclose(fitted, best, atol=1e-3)

    crooked = np.tanh(3 * MEANS) @ mix
    _, params = static_from_document(TABLE, TEXTS, crooked)
    gradient = jax.jit(jax.value_and_grad(lambda p: static_loss(encoder, p, TEXTS, jnp.asarray(crooked, jnp.float32))))
    before = float(gradient(params)[0])
    for _ in range(60):
        after, slope = gradient(params)
        params = jax.tree.map(lambda p, g: p - 3.0 * g, params, slope)
    assert float(after) < 0.5 * before


def test_what_is_refused():
    targets = np.ones((80, 4))
    with pytest.raises(ConfigError, match="expected the same rows"):
        static_from_document(TABLE, TEXTS, targets[:5])
    with pytest.raises(ConfigError, match="ridge=0"):
        static_from_document(TABLE, TEXTS, targets, ridge=0)
    with pytest.raises(ConfigError, match="below 5"):
        static_from_document(TABLE[:5], TEXTS, targets)
    with pytest.raises(NonFiniteError, match="targets"):
        static_from_document(TABLE, TEXTS, targets * np.nan)
    with pytest.raises(ConfigError, match="sizes of 1"):
        StaticConfig(vocabulary=0, width=1, embedding_width=1)
