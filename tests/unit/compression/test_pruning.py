"""Importance finds planted redundancy; pruning slices exactly what was named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import compression, module
from erel_jax.adapters import lora, trainable
from erel_jax.compression import importance
from erel_jax.compression.pruning import most_important, prune
from erel_jax.encoders import BeitConfig, SiglipVisionConfig, VitConfig, beit, siglip_vision, vit
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import FLOAT32

CONFIG = VitConfig(image_size=8, patch=4, width=12, layers=4, heads=3, mlp_width=10)
DRAW = np.random.default_rng(0)
ROWS = DRAW.normal(size=(6, 8, 8, 3)).astype(np.float32)
INPUTS = {"pixels": ROWS}


@pytest.fixture(scope="module")
def case():
    encoder = vit(CONFIG)
    params = jax.tree.map(lambda s: jnp.asarray(0.4 * DRAW.normal(size=s.shape), jnp.float32), encoder.module.spec)
    return encoder, params


def planted(params):
    """Head 1 of layer 2, neuron 7 of layer 0 and layer 3 add nothing."""
    layers = jax.tree.map(lambda leaf: leaf, params["layers"])
    output, down = layers["attention"]["output"]["kernel"], layers["mlp"]["down"]["kernel"]
    output = output.at[2, 4:8].set(0.0).at[3].set(0.0)
    down = down.at[0, 7].set(0.0).at[3].set(0.0)
    bias = {name: layers[b][name]["bias"].at[3].set(0.0) for b, name in (("attention", "output"), ("mlp", "down"))}
    layers = {
        **layers,
        "attention": {**layers["attention"], "output": {"kernel": output, "bias": bias["output"]}},
        "mlp": {**layers["mlp"], "down": {"kernel": down, "bias": bias["down"]}},
    }
    return {**params, "layers": layers}


def embedding(encoder, params):
    return jax.jit(lambda p: encoder.module.apply(p, INPUTS).embedding)(params)


def test_what_adds_nothing_is_found_and_goes_without_a_trace(case):
    encoder, params = case
    params = planted(params)
    expected = embedding(encoder, params)

    def loss(params, batch):
        return jnp.sum(jnp.sin(encoder.module.apply(params, batch).embedding))

    heads = importance.head_importance(loss, params, [INPUTS], 3)
    neurons = importance.neuron_importance(encoder.module.apply, params, [INPUTS])
    layers = importance.layer_importance(encoder, params, [INPUTS])
    assert heads.shape == (4, 3) and neurons.shape == (4, 10) and layers.shape == (4,)
    assert heads[2, 1] == 0 and neurons[0, 7] == 0 and abs(layers[3]) < 1e-6
    assert (heads[:3] == 0).sum() == 1 and (neurons[:3] == 0).sum() == 1 and (layers[:3] > 1e-3).all()

    kept = most_important(layers, 0.25)
    assert kept.tolist() == [0, 1, 2]
    shorter, cut = prune(encoder, params, layers=kept)
    assert shorter.layers == 3 and cut["layers"]["mlp"]["up"]["kernel"].shape == (3, 12, 10)
    np.testing.assert_allclose(embedding(shorter, cut), expected, atol=1e-5)

    # In the layers where something is planted, exactly that goes; elsewhere something else would have to.
    only = {0: neurons, 2: heads}
    for layer, (values, name, lost) in {0: (neurons, "neurons", 7), 2: (heads, "heads", 1)}.items():
        rows = most_important(only[layer], 1 / values.shape[1])
        assert lost not in rows[layer] and rows.shape == (4, values.shape[1] - 1)
        zeroed = zero_what_goes(params, name, rows)
        smaller, cut = prune(encoder, params, **{name: rows}, precision=FLOAT32)
        np.testing.assert_allclose(embedding(smaller, cut), embedding(encoder, zeroed), atol=1e-5)
    assert smaller.config == dataclasses.replace(CONFIG, heads=2, head_width=4)
    assert module.count(smaller.module.spec) == module.count(cut) < module.count(params)


def zero_what_goes(params, name, kept):
    """The whole model with the rows behind the parts that go set to zero."""
    branch, kernel, size = ("attention", "output", 4) if name == "heads" else ("mlp", "down", 1)
    matrix = np.array(params["layers"][branch][kernel]["kernel"])
    for layer, rows in enumerate(kept):
        for part in set(range(matrix.shape[1] // size)) - set(rows.tolist()):
            matrix[layer, part * size : (part + 1) * size] = 0.0
    layers = params["layers"]
    changed = {**layers[branch], kernel: {**layers[branch][kernel], "kernel": jnp.asarray(matrix)}}
    return {**params, "layers": {**layers, branch: changed}}


def test_nothing_dropped_is_the_identity(case):
    encoder, params = case
    full = {
        "heads": most_important(np.ones((4, 3)), 0.0),
        "neurons": most_important(DRAW.random((4, 10)), 0.0),
        "layers": most_important(DRAW.random(4), 0.0),
    }
    same, cut = prune(encoder, params, **full, precision=FLOAT32)
    jax.tree.map(np.testing.assert_array_equal, cut, params)
    assert same.config == dataclasses.replace(CONFIG, head_width=4)
    np.testing.assert_array_equal(embedding(same, cut), embedding(encoder, params))
    assert most_important(np.array([3.0, 1.0, 2.0, 1.0]), 0.5).tolist() == [0, 2]
    assert most_important(np.array([1.0, 1.0]), 0.99).tolist() == [0]


def test_a_pruned_encoder_takes_adapters_and_int8(case):
    encoder, params = case
    smaller, cut = prune(encoder, params, heads=np.tile([0, 2], (4, 1)), neurons=np.tile(np.arange(6), (4, 1)))
    plain = embedding(smaller, cut)
    wrapped = module.fill(jax.random.key(0), lora(smaller.module.spec, trainable.LORA_TARGETS, rank=2), cut)
    np.testing.assert_allclose(embedding(smaller, wrapped), plain, atol=1e-5)
    assert compression.cosine_drift(plain, embedding(smaller, compression.quantize_int8(cut)))["min"] > 0.99
    with pytest.raises(ConfigError, match="quantize after"):
        prune(smaller, compression.quantize_int8(cut), heads=np.tile([0], (4, 1)))


def test_what_is_refused(case):
    encoder, params = case
    for heads in (np.array([[0, 0]] * 4), np.array([[3]] * 4), np.array([[0.0]] * 4), np.array([[0]] * 3)):
        with pytest.raises(ConfigError, match=r"heads .*expected 4 rows of different indices below 3"):
            prune(encoder, params, heads=heads)
    with pytest.raises(ConfigError, match="drop=1"):
        most_important(np.ones(3), 1.0)
    with pytest.raises(NonFiniteError, match="1 of 3 importances are NaN"):
        most_important(np.array([1.0, np.nan, 0.0]), 0.5)
    for other in (siglip_vision(SiglipVisionConfig.tiny()), beit(BeitConfig.tiny())):
        with pytest.raises(ConfigError, match="layers alone"):
            prune(other, {"layers": {}}, neurons=np.zeros((3, 1), int))
    with pytest.raises(ConfigError, match="no calibration batch"):
        importance.layer_importance(encoder, params, [])
    with pytest.raises(NonFiniteError, match="importance of a head"):
        importance.head_importance(lambda p, b: encoder.module.apply(p, b).embedding.sum() / 0.0, params, [INPUTS], 3)
    with pytest.raises(ConfigError, match="before serving_params"):
        prune(encoder, compression.serving_params(params, 4), layers=np.arange(2))
