"""Early exits are the tower's own first layers; their loss and the rule for taking one, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.compression import depth
from erel_jax.encoders import ClipVisionConfig, clip_vision
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError
from erel_jax.layers import layer_norm, unstack

DRAW = np.random.default_rng(0)


def test_an_exit_is_the_tap_under_the_towers_own_head():
    encoder = clip_vision(ClipVisionConfig.tiny())
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * DRAW.normal(size=s.shape), jnp.float32), encoder.module.spec)
    inputs = example_inputs(encoder)
    tap = encoder.module.apply(params, inputs, taps=(2,), embedding=False).taps[:, 0]
    expected = layer_norm(params["final_norm"], tap, 1e-5) @ params["projection"]["kernel"]
    exits = depth.exits_of(encoder, (2, 3))
    np.testing.assert_allclose(exits[2](params, inputs), expected, atol=1e-5)
    np.testing.assert_allclose(exits[3](params, inputs), encoder.module.apply(params, inputs).embedding, atol=1e-5)
    listed = {**params, "layers": unstack(params["layers"], 3)}
    np.testing.assert_allclose(exits[2](listed, inputs), expected, atol=1e-5)
    shallow = depth.at_depth(encoder, 2)
    cut = depth.first_layers(params, 2)
    assert jax.tree.map(lambda s: s.shape, shallow.module.spec) == jax.tree.map(lambda p: p.shape, cut)
    for layers in (0, 4, 2.5):
        with pytest.raises(ConfigError, match="expected 1 to 3"):
            depth.at_depth(encoder, layers)  # pyright: ignore[reportArgumentType]


def test_depth_loss_by_numpy_and_where_its_gradients_go():
    exits = {k: jnp.asarray(DRAW.normal(size=(4, 5)), jnp.float32) for k in (1, 2, 3)}

    def loss(embeddings):
        return jnp.sum(embeddings**2)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    soft = {}
    for k, x in exits.items():
        x = np.asarray(x, np.float64)
        soft[k] = softmax(x / np.linalg.norm(x, axis=1, keepdims=True) / 0.5)
    squares = {k: float((np.asarray(x, np.float64) ** 2).sum()) for k, x in exits.items()}
    match = {k: 0.5 * (soft[3] * np.log(soft[3] / soft[k])).sum(1).mean() for k in (1, 2)}
    expected = squares[3] + np.mean([0.5 * squares[k] + 2.0 * match[k] for k in (1, 2)])
    got = depth.depth_loss(loss, exits, exit_weight=0.5, match_weight=2.0, temperature=0.5)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    gradient = jax.grad(lambda e: depth.depth_loss(loss, e, exit_weight=0.0))(exits)
    np.testing.assert_allclose(gradient[3], 2 * exits[3], rtol=1e-6)
    assert float(jnp.abs(gradient[1]).max()) > 1e-4
    with pytest.raises(ConfigError, match="two or more"):
        depth.depth_loss(loss, {3: exits[3]})
    with pytest.raises(ConfigError, match="expected one shape"):
        depth.depth_loss(loss, {1: exits[1][:, :2], 3: exits[3]})


def test_exit_rule_by_hand():
    costly = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    # Margins .9, .1, .3 and .5; the second and third answer wrongly.
    cheap = np.array([[1.0, 0.1, 0], [0.4, 0.5, 0], [0.6, 0.3, 0], [0, 0.1, 0.6]])
    strict = depth.calibrated_exit(cheap, costly, agreement=1.0)
    assert strict.margin == pytest.approx(0.3) and strict.taken == 0.5 and strict.agreement == 1.0
    assert strict.takes(cheap).tolist() == [True, False, False, True]
    loose = depth.calibrated_exit(cheap, costly, agreement=0.75)
    assert loose.margin == pytest.approx(0.1) and loose.taken == 0.75 and loose.agreement == 0.75
    assert depth.calibrated_exit(costly, costly).margin == 0.0
    hopeless = depth.calibrated_exit(cheap[1:2], costly[1:2], agreement=1.0)
    assert hopeless.taken == 0.0 and not hopeless.takes(cheap[1:2]).any()
    for bad in ((cheap, costly[:2]), (cheap[:, :1], costly[:, :1]), (cheap * np.nan, costly)):
        with pytest.raises(ConfigError, match="expected"):
            depth.calibrated_exit(*bad)
    with pytest.raises(ConfigError, match="agreement=0"):
        depth.calibrated_exit(cheap, costly, agreement=0)
