"""Training the top layers alone: the same function, gradients above the cut, no backward pass below it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import cut_layers, join_layers, partial_layers, split, trainable
from erel_jax.encoders import BertConfig, bert
from erel_jax.errors import ConfigError
from erel_jax.profiling import count_flops

ENCODER = bert(BertConfig.tiny())
CUT = partial_layers(ENCODER, 1)
DRAW = np.random.default_rng(0)
PARAMS = jax.tree.map(lambda s: jnp.asarray((0.3 * DRAW.normal(size=s.shape)).astype(np.float32)), ENCODER.module.spec)
INPUTS = {"ids": DRAW.integers(1, 60, (2, 5)).astype(np.int32), "mask": np.ones((2, 5), bool)}


def test_computes_the_same_and_joins_back():
    params = cut_layers(PARAMS, 1)
    assert jax.tree.map(lambda s: s.shape, CUT.module.spec) == jax.tree.map(lambda p: p.shape, params)
    expected = jax.jit(lambda p: ENCODER.module.apply(p, INPUTS, taps=(0, 2, 3)))(PARAMS)
    got = jax.jit(lambda p: CUT.module.apply(p, INPUTS, taps=(0, 2, 3)))(params)
    np.testing.assert_allclose(got.embedding, expected.embedding, atol=1e-5)
    np.testing.assert_allclose(got.taps, expected.taps, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, join_layers(params), PARAMS)


def test_only_the_top_trains_and_nothing_below_is_differentiated():
    params = module.abstract(CUT.module.spec)

    def operations(encoder, abstract, patterns):
        trains, frozen = split(abstract, patterns)

        def loss(t, frozen):
            return jnp.sum(encoder.module.apply(tree.merge(t, frozen), INPUTS).embedding ** 2)

        gradient = jax.eval_shape(jax.grad(loss), trains, frozen)
        return set(tree.paths(gradient)), count_flops(jax.grad(loss), trains, frozen).total

    paths, top = operations(CUT, params, trainable.TOP_LAYERS)
    assert len(paths) == 16 and all(path.startswith("top_layers/") for path in paths)
    _, full = operations(ENCODER, module.abstract(ENCODER.module.spec), ["layers/.*"])
    # Three layers forward and one back (input gradient only within it), of nine thirds.
    assert 3 / 9 < top / full < 5.5 / 9


@pytest.mark.parametrize("top", [0, 3, -1])
def test_the_cut_must_be_inside(top):
    for cut in (lambda: partial_layers(ENCODER, top), lambda: cut_layers(PARAMS, top)):
        with pytest.raises(ConfigError, match=f"top={top} of 3 layers"):
            cut()
