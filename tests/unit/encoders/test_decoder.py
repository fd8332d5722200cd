"""What a decoder sees and how it pools, by hand and against independent formulas."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.encoders import LlamaConfig, MistralConfig, Qwen2Config, decoder
from erel_jax.encoders.decoder import visible_tokens
from erel_jax.errors import ConfigError
from erel_jax.layers import unstack


def drawn(spec, seed=0):
    draw = np.random.default_rng(seed)
    return tree.map_with_path(lambda path, s: jnp.asarray(draw.normal(size=s.shape) * 0.4, s.dtype), spec)


def batch(lengths, length, seed=1):
    draw = np.random.default_rng(seed)
    mask = np.arange(length)[None] < np.array(lengths)[:, None]
    return {"ids": np.where(mask, draw.integers(1, 64, mask.shape), 0).astype(np.int32), "mask": mask}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_visible_tokens(causal, window):
    mask = np.array([[1, 1, 1, 1, 0]], bool)
    found = np.asarray(visible_tokens(jnp.asarray(mask), causal=causal, window=window))[0, 0]
    for i in range(5):
        for j in range(5):
            near = window is None or abs(i - j) < (window if causal else window + 1)
            assert found[i, j] == (mask[0, j] and near and (j <= i or not causal)), (i, j)


def test_a_causal_token_does_not_see_what_follows_and_a_bidirectional_one_does():
    config = dataclasses.replace(LlamaConfig.tiny(), causal=True)
    inputs = batch([9, 9], 9)
    inputs["ids"][1] = inputs["ids"][0]
    inputs["ids"][1, 6] += 1 if inputs["ids"][1, 6] < 63 else -1
    for one, equal in ((config, 6), (dataclasses.replace(config, causal=False), 0)):
        encoder = decoder(one)
        params = drawn(encoder.module.spec)
        run = jax.jit(partial(encoder.module.apply, embedding=False, tokens=True))
        tokens = np.asarray(run(params, inputs).tokens)
        same = np.abs(tokens[0] - tokens[1]).max(1) < 1e-6
        assert same[:equal].all() and not same[equal:].any()


def test_layers_given_one_by_one_equal_the_scan_where_they_differ():
    encoder = decoder(Qwen2Config.tiny("mean"))
    assert len(set(encoder.config.windows)) == 2
    params = drawn(encoder.module.spec)
    inputs = batch([13, 2, 7], 13)
    run = jax.jit(partial(encoder.module.apply, taps=(1, 3), hidden_states=True))
    scanned, listed = run(params, inputs), run({**params, "layers": unstack(params["layers"], 3)}, inputs)
    for path, leaf in tree.paths(scanned).items():
        np.testing.assert_allclose(tree.paths(listed)[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)
    everywhere = decoder(dataclasses.replace(encoder.config, window=None, windowed=None))
    assert np.abs(jax.jit(everywhere.module.apply)(params, inputs).embedding - scanned.embedding).max() > 1e-3


def test_taps_below_the_top_are_not_normed_and_the_top_is():
    encoder = decoder(LlamaConfig.tiny("mean"))
    params = drawn(encoder.module.spec)
    inputs = batch([8, 3], 8)
    low = jax.jit(partial(encoder.module.apply, taps=(0, 2), embedding=False))(params, inputs).taps
    every = jax.jit(partial(encoder.module.apply, taps=(0, 2, 3), hidden_states=True, tokens=True))(params, inputs)
    np.testing.assert_allclose(low, every.taps[:, :2], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(every.hidden_states[-1], every.tokens)
    np.testing.assert_allclose(every.taps[:, 2], every.embedding, rtol=1e-6, atol=1e-6)
    top = np.asarray(every.tokens, np.float64) / np.asarray(params["final_norm"]["scale"])
    np.testing.assert_allclose((top**2).mean(-1), 1.0, rtol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls", "mean_all"])
def test_poolings(pooling):
    encoder = decoder(dataclasses.replace(LlamaConfig.tiny(pooling), causal=True))
    params = drawn(encoder.module.spec)
    inputs = batch([8, 3, 0], 8)
    out = jax.jit(partial(encoder.module.apply, tokens=True))(params, inputs)
    tokens = np.asarray(out.tokens, np.float64)
    expected = {
        "mean": [tokens[0].mean(0), tokens[1, :3].mean(0), np.zeros(16)],
        "last": [tokens[0, 7], tokens[1, 2], tokens[2, 0]],
        "cls": tokens[:, 0],
        "mean_all": tokens.mean(1),
    }[pooling]
    np.testing.assert_allclose(out.embedding, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_on_the_left_gives_the_same_text(pooling, causal):
    encoder = decoder(dataclasses.replace(Qwen2Config.tiny(pooling), causal=causal))
    params = drawn(encoder.module.spec)
    right = batch([8, 3, 5], 8)
    left = {name: np.stack([np.roll(rows[i], 8 - n) for i, n in enumerate((8, 3, 5))]) for name, rows in right.items()}
    assert not left["mask"][1, :5].any() and left["mask"][1, 5:].all()
    left["ids"][~left["mask"]] = 63
    run = jax.jit(partial(encoder.module.apply, taps=(0, 2, 3)))
    a, b = run(params, right), run(params, left)
    np.testing.assert_allclose(b.embedding, a.embedding, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(b.taps, a.taps, rtol=2e-5, atol=2e-5)


def test_impossible_configs_are_named():
    with pytest.raises(ConfigError, match="'max' of a Llama encoder"):
        LlamaConfig(pooling="max")
    with pytest.raises(ConfigError, match="window 0"):
        MistralConfig(window=0)
    with pytest.raises(ConfigError, match="2 entries for 3 layers"):
        dataclasses.replace(Qwen2Config.tiny(), windowed=(True, False))
    with pytest.raises(ConfigError, match="window is None"):
        dataclasses.replace(Qwen2Config.tiny(), window=None)
