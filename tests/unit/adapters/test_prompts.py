"""Soft prompts and prefixes: against tokens that are there anyway, stacks run by hand, and NumPy attention."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.adapters import fold_prefix, lora, partial_layers, prefix_tuning, prompt_tuning, split, trainable
from erel_jax.adapters.partial import cut_layers
from erel_jax.encoders import ENCODERS, BertConfig, VitConfig, bert, vit
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.encoders.vit import embed_image
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, block, layer_norm, masked_mean, unstack
from erel_jax.layers.attention import self_attention

DRAW = np.random.default_rng(0)
BERT = BertConfig.tiny("mean")
TEXT, IMAGE = bert(BERT), vit(VitConfig.tiny())
INPUTS = example_inputs(TEXT, 3, 7)
WANTED = {"tokens": True, "hidden_states": True, "taps": (0, 2)}
# The others share their stack and their way in with one of these.
SAMPLE = ("gpt2-prefix", "beit-prompt", "whisper-prefix")
QUICK = {"xla_backend_optimization_level": 0}


def drawn(spec, seed=1):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray((0.3 * draw.normal(size=s.shape)).astype(np.float32)), spec)


def run(encoder, params, inputs, **options):
    return jax.jit(lambda p: encoder.module.apply(p, inputs, **options), compiler_options=QUICK)(params)


def test_prompts_of_a_text_are_tokens_in_front_that_nothing_reads():
    """The same vectors as rows of a larger vocabulary, at the front of every text."""
    params = drawn(prompt_tuning(TEXT.module.spec, tokens=2))
    got = run(TEXT, params, INPUTS, **WANTED)
    rows = np.concatenate([params["embeddings"]["token"]["table"], params["prompt"]["vectors"]])
    plain = {name: branch for name, branch in params.items() if name != "prompt"}
    plain["embeddings"] = {**plain["embeddings"], "token": {"table": jnp.asarray(rows)}}
    front = ((0, 0), (2, 0))
    ids = np.pad(INPUTS["ids"], front)
    ids[:, :2] = [64, 65]
    longer = {"ids": ids, "mask": np.pad(INPUTS["mask"], front, constant_values=True)}
    whole = run(bert(dataclasses.replace(BERT, vocabulary=66)), plain, longer, tokens=True, hidden_states=True)
    np.testing.assert_allclose(got.tokens, whole.tokens[:, 2:], atol=1e-6)
    np.testing.assert_allclose(got.hidden_states, whole.hidden_states[:, :, 2:], atol=1e-6)
    mean = masked_mean(whole.tokens[:, 2:], jnp.asarray(INPUTS["mask"]))
    np.testing.assert_allclose(got.embedding, mean, atol=1e-6)
    np.testing.assert_array_equal(got.mask, INPUTS["mask"])
    assert np.abs(np.asarray(got.embedding) - np.asarray(whole.embedding)).max() > 3e-4
    assert got.taps.shape == (3, 2, 16)


def test_the_first_token_stays_that_of_the_text():
    params = drawn(prompt_tuning(TEXT.module.spec, tokens=3))
    got = run(bert(BertConfig.tiny("cls")), params, INPUTS, tokens=True, taps=(1, 3))
    np.testing.assert_allclose(got.embedding, got.tokens[:, 0], atol=1e-6)
    np.testing.assert_allclose(got.taps[:, 1], got.tokens[:, 0], atol=1e-6)


def test_prompts_of_an_image_are_states_behind_its_patches():
    params = drawn(prompt_tuning(IMAGE.module.spec, tokens=4))
    inputs = example_inputs(IMAGE, 2)
    got = run(IMAGE, params, inputs, **WANTED)
    config = IMAGE.config
    state = embed_image(params["embeddings"], jnp.asarray(inputs["pixels"]), config.patch, FLOAT32)
    own = state.shape[1]
    state = jnp.concatenate([state, jnp.stack([params["prompt"]["vectors"]] * 2)], axis=1)
    for one in unstack(params["layers"], 3):
        state = block(config.block, FLOAT32, one, state, None)
    normed = layer_norm(params["final_norm"], state[:, :own], config.eps)
    np.testing.assert_allclose(got.tokens, normed, atol=1e-5)
    np.testing.assert_allclose(got.embedding, normed[:, 0], atol=1e-5)
    np.testing.assert_allclose(got.hidden_states[-1], state[:, :own], atol=1e-5)


def test_a_prefix_is_more_keys_and_values():
    """One attention layer against NumPy."""
    shapes = {name: {"kernel": (6, 6), "bias": (6,)} for name in ("query", "key", "value", "output")}
    shapes["prefix"] = {"key": (2, 6), "value": (2, 6)}
    params = jax.tree.map(lambda s: DRAW.normal(size=s).astype(np.float32), shapes, is_leaf=lambda s: type(s) is tuple)
    x = DRAW.normal(size=(2, 4, 6)).astype(np.float32)
    # As an encoder makes it for six places, of which the first two are the prefix's.
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], bool)[:, None, None, :]
    got = self_attention(params, jnp.asarray(x), jnp.asarray(mask), heads=2, precision=FLOAT32)
    query, key, value = (x @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value"))
    for row, head in np.ndindex(2, 2):
        part = slice(3 * head, 3 * head + 3)
        keys, values = (
            np.concatenate([params["prefix"][n][:, part], y[row, :, part]]) for n, y in (("key", key), ("value", value))
        )
        scores = query[row, :, part] @ keys.T / np.sqrt(3)
        weights = np.exp(scores) * mask[row, 0]
        query[row, :, part] = weights / weights.sum(-1, keepdims=True) @ values
    expected = query @ params["output"]["kernel"] + params["output"]["bias"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_network_behind_a_prefix_folds_into_it():
    spec = prefix_tuning(TEXT.module.spec, tokens=3, reparameterize=5)
    params = drawn(spec)
    folded = fold_prefix(params)
    prefix = jax.tree.map(np.asarray, params["prefix"])
    hidden = np.tanh(prefix["table"] @ prefix["up"]["kernel"] + prefix["up"]["bias"])
    states = hidden @ prefix["down"]["kernel"] + prefix["down"]["bias"]
    # As in peft: key and value of the first layer, of the second …
    np.testing.assert_allclose(folded["prefix"]["value"][1], states[:, 48:64], atol=1e-5)
    plain = prefix_tuning(TEXT.module.spec, tokens=3)["prefix"]
    assert {n: x.shape for n, x in folded["prefix"].items()} == {n: s.shape for n, s in plain.items()}
    np.testing.assert_allclose(
        run(TEXT, params, INPUTS).embedding, run(TEXT, folded, INPUTS).embedding, rtol=1e-5, atol=1e-5
    )
    assert fold_prefix(folded) is folded


def test_prompts_and_prefixes_compose_with_each_other_adapters_and_cut_stacks():
    spec = lora(TEXT.module.spec, trainable.LORA_TARGETS, rank=2)
    params = drawn(prefix_tuning(prompt_tuning(spec, tokens=2), tokens=3))
    both = run(TEXT, params, INPUTS)
    cut = run(partial_layers(TEXT, 1), cut_layers(params, 1), INPUTS)
    np.testing.assert_allclose(cut.embedding, both.embedding, atol=1e-5)
    for name in ("prompt", "prefix"):
        without = {branch: value for branch, value in params.items() if branch != name}
        assert np.abs(np.asarray(run(TEXT, without, INPUTS).embedding) - np.asarray(both.embedding)).max() > 1e-3


def cases():
    names = [(name, kind) for name in sorted(ENCODERS) for kind in ("prompt", "prefix")]
    return [pytest.param(*case, marks=() if "-".join(case) in SAMPLE else pytest.mark.slow) for case in names]


@pytest.mark.parametrize(("name", "kind"), cases())
def test_any_encoder_has_them(name, kind):
    """Shapes stay, and every trained vector reaches the embedding."""
    encoder = ENCODERS[name].build(ENCODERS[name].config.tiny())
    rewrite = {"prompt": prompt_tuning, "prefix": prefix_tuning}[kind]
    params = drawn(rewrite(encoder.module.spec, tokens=3))
    trains, frozen = split(params, {"prompt": trainable.PROMPT, "prefix": trainable.PREFIX}[kind])
    inputs = example_inputs(encoder, 2)

    def total(t, frozen):
        out = encoder.module.apply(tree.merge(t, frozen), inputs, **WANTED)
        return jnp.sum(jnp.sin(out.embedding)), out

    (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=QUICK)(trains, frozen)
    plain = {branch: value for branch, value in params.items() if branch != kind}
    before = jax.eval_shape(lambda p: encoder.module.apply(p, inputs, **WANTED), plain)
    # SigLIP's text tower has all its places filled, so slots take some of them.
    if name != "siglip_text_model":
        assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, before)
    for path, leaf in tree.paths(gradient).items():
        moved = np.abs(np.asarray(leaf)).max(axis=-1)
        assert np.isfinite(leaf).all() and (moved > 1e-9).all(), path


def test_what_is_refused():
    spec = TEXT.module.spec
    for rewrite in (prompt_tuning, prefix_tuning):
        with pytest.raises(ConfigError, match="tokens=0"):
            rewrite(spec, tokens=0)
        with pytest.raises(ConfigError, match="already"):
            rewrite(rewrite(spec))
        params = drawn(rewrite(spec, tokens=18))
        with pytest.raises(ConfigError, match=r"18 slots for prompts and prefix.*positions for 24"):
            jax.eval_shape(lambda p: TEXT.module.apply(p, INPUTS), params)
