"""Bottleneck adapters on a transformer stack and their count on real encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import houlsby, split, trainable
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, Bottleneck, run_stack, self_attention, stack_spec
from erel_jax.layers import block as transformer_block

CONFIG = BlockConfig(width=8, heads=2, mlp_width=16, norm="post")


def stack_case():
    spec = {"layers": stack_spec(CONFIG, 2)}
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), jnp.float32), spec)
    return spec, params, jnp.asarray(draw.normal(size=(2, 3, 8)), jnp.float32)


@jax.jit
def forward(params, x):
    return run_stack(lambda p, x: transformer_block(CONFIG, FLOAT32, p, x, None), params["layers"], x, layers=2)[0]


def test_starts_unchanged_unless_as_in_the_paper():
    spec, params, x = stack_case()
    fresh = module.fill(jax.random.key(0), houlsby(spec, bottleneck=4), params)
    np.testing.assert_array_equal(forward(fresh, x), forward(params, x))
    paper = module.fill(jax.random.key(0), houlsby(spec, bottleneck=4, zero_up=False), params)
    drift = np.max(np.abs(forward(paper, x) - forward(params, x)))
    assert 0 < drift < 0.01


def test_stands_after_the_last_product_of_each_sub_layer():
    spec, params, x = stack_case()
    wrapped = houlsby(spec, bottleneck=4)["layers"]
    assert isinstance(wrapped["attention"]["output"]["kernel"], Bottleneck)
    assert isinstance(wrapped["mlp"]["down"]["kernel"], Bottleneck)
    assert not isinstance(wrapped["mlp"]["up"]["kernel"], Bottleneck)
    assert wrapped["mlp"]["down"]["kernel"].down.axes == ("layers", "embed", "rank")
    assert wrapped["mlp"]["down"]["kernel"].up_bias.shape == (2, 8)

    draw = np.random.default_rng(3)
    filled = module.fill(jax.random.key(0), houlsby(spec, bottleneck=4), params)
    filled = tree.map_with_path(
        lambda path, p: jnp.asarray(draw.normal(size=p.shape), jnp.float32) if "/kernel/" in path else p, filled
    )
    attention = jax.tree.map(lambda p: p[0], filled["layers"]["attention"])
    plain = {**attention, "output": {**attention["output"], "kernel": attention["output"]["kernel"].base}}
    h = np.asarray(self_attention(plain, x, None, heads=2, precision=FLOAT32))
    k = jax.tree.map(np.asarray, attention["output"]["kernel"])
    expected = h + np.maximum(h @ k.down + k.down_bias, 0) @ k.up + k.up_bias
    np.testing.assert_allclose(
        self_attention(attention, x, None, heads=2, precision=FLOAT32), expected, rtol=1e-4, atol=1e-4
    )


def test_gradients_exist_for_the_adapters_alone():
    spec, params, x = stack_case()
    filled = module.fill(jax.random.key(0), houlsby(spec, bottleneck=4), params)
    trains, frozen = split(filled, trainable.HOULSBY)
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(forward(tree.merge(t, frozen), x) ** 2)))(trains)
    assert len(tree.paths(gradient)) == 8
    assert not [path for path in tree.paths(gradient) if path.endswith("/base")]
    assert np.any(np.asarray(gradient["layers"]["mlp"]["down"]["kernel"].up))


def test_count_on_full_size_encoders():
    specs = {"text": bert(BertConfig()).module.spec, "image": vit(VitConfig.base_16()).module.spec}
    wrapped = houlsby(specs)
    assert module.count(wrapped) - module.count(specs) == 48 * 99_136
    assert module.count(split(wrapped, trainable.HOULSBY)[0]) == 4_965_440 - 206_912


def test_bottleneck_must_be_positive():
    with pytest.raises(ConfigError, match="bottleneck=0"):
        houlsby(stack_case()[0], bottleneck=0)
