"""Image encoders that merge tokens: lengths, sizes, what is read from them, and what they refuse."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.adapters import lora, prefix_tuning, prompt_tuning, trainable
from erel_jax.compression import cosine_drift, quantize_int8
from erel_jax.encoders import ENCODERS
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError
from erel_jax.layers import unstack

FAMILIES = {
    "vit": 1,
    "deit": 2,
    "dinov2": 1,
    "dinov2_with_registers": 3,
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
}


def built(name, pairs):
    family = ENCODERS[name]
    return family.build(dataclasses.replace(family.config.tiny(), merged_tokens=pairs))


def drawn(spec):
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(0.2 * draw.normal(size=s.shape), jnp.float32), spec)


def cases():
    """The default run has a family with tokens that are never merged, and the one without."""
    quick = ("deit", "siglip_vision_model")
    return [pytest.param(*f, marks=() if f[0] in quick else pytest.mark.slow) for f in FAMILIES.items()]


@pytest.mark.parametrize(("name", "protected"), cases())
def test_every_layer_loses_pairs_and_no_mass(name, protected):
    encoder, base = built(name, 2), built(name, 0)
    assert jax.tree.structure(encoder.module.spec) == jax.tree.structure(base.module.spec)
    params, inputs = drawn(encoder.module.spec), example_inputs(encoder)
    out = jax.jit(partial(encoder.module.apply, tokens=True, taps=(0, 3)))(params, inputs)
    plain = jax.jit(partial(base.module.apply, tokens=True, taps=(0, 3)))(params, inputs)
    length = plain.tokens.shape[1]
    left = length
    for _ in range(encoder.layers):
        left -= min(2, (left - protected) // 2)
    assert plain.sizes is None and out.tokens.shape == (4, left, encoder.width) and out.taps.shape == plain.taps.shape
    np.testing.assert_array_equal(out.sizes.sum(1), length)
    np.testing.assert_array_equal(out.sizes[:, :protected], 1.0)
    np.testing.assert_allclose(out.taps[:, 0], plain.taps[:, 0], atol=1e-6)
    difference = np.abs(out.embedding - plain.embedding).max()
    assert difference > 0 and cosine_drift(plain.embedding, out.embedding)["min"] > 0.8
    listed = {**params, "layers": unstack(params["layers"], encoder.layers)}
    again = jax.jit(encoder.module.apply)(listed, inputs)
    np.testing.assert_allclose(again.embedding, out.embedding, atol=1e-5)
    assert again.tokens is None and again.sizes is None


def test_a_mean_over_merged_tokens_weighs_them():
    encoder = built("siglip_vision_model", 2)
    params, inputs = drawn(encoder.module.spec), example_inputs(encoder)
    # Layers of zeros add nothing, so whatever is merged, the mean over all patches must stay.
    zero = {**params, "layers": jax.tree.map(jnp.zeros_like, params["layers"])}
    still = jax.jit(partial(encoder.module.apply, taps=(0, 3), tokens=True))(zero, inputs)
    assert still.sizes.max() > 1
    np.testing.assert_allclose(still.taps[:, 1], still.taps[:, 0], atol=1e-6)


@pytest.mark.slow
def test_adapters_and_int8_go_on_merging_encoders():
    encoder = built("vit", 2)
    params, inputs = drawn(encoder.module.spec), example_inputs(encoder)
    apply = jax.jit(lambda params: encoder.module.apply(params, inputs).embedding)
    plain = apply(params)
    wrapped = module.fill(jax.random.key(0), lora(encoder.module.spec, trainable.LORA_TARGETS, rank=2), params)
    np.testing.assert_allclose(apply(wrapped), plain, atol=1e-5)
    assert cosine_drift(plain, apply(quantize_int8(params)))["min"] > 0.97
    prefixed = module.fill(jax.random.key(0), prefix_tuning(encoder.module.spec, tokens=2), params)
    assert np.isfinite(apply(prefixed)).all()
    prompted = module.fill(jax.random.key(0), prompt_tuning(encoder.module.spec, tokens=2), params)
    with pytest.raises(ConfigError, match="prompts and merged tokens"):
        apply(prompted)


def test_what_is_refused():
    encoder = built("vit", 2)
    params, inputs = drawn(encoder.module.spec), example_inputs(encoder)
    with pytest.raises(ConfigError, match="states of different lengths"):
        encoder.module.apply(params, inputs, hidden_states=True)
    for name in ("vit", "dinov2", "siglip_vision_model"):
        with pytest.raises(ConfigError, match="merged_tokens=-1"):
            built(name, -1)
    with pytest.raises(ConfigError, match="relative position"):
        built("beit", 1)
