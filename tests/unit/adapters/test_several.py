"""A bank of adapters gives each example what its own adapter alone would give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import choose, lora, split, stack_adapters, trainable
from erel_jax.encoders import BertConfig, bert
from erel_jax.errors import ConfigError

ENCODER = bert(BertConfig.tiny("pooler"))
SPEC = ENCODER.module.spec
TARGETS = [*trainable.LORA_TARGETS, "pooler/kernel"]


def drawn(spec, seed):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray((0.3 * draw.normal(size=s.shape)).astype(np.float32)), spec)


BASE = drawn(SPEC, 0)


def adapter(seed, rank, alpha):
    kept = tree.paths(BASE)
    wrapped = drawn(lora(SPEC, TARGETS, rank=rank, alpha=alpha), seed)
    return tree.map_with_path(lambda path, new: kept.get(module.canonical(path), new), wrapped)


ADAPTERS = [adapter(1, 2, 2.0), adapter(2, 3, 9.0)]
IDS = np.random.default_rng(3).integers(1, 60, (4, 5)).astype(np.int32)
INPUTS = {"ids": IDS, "mask": np.arange(5)[None] < np.array([5, 2, 4, 5])[:, None]}


@pytest.fixture(scope="module")
def bank():
    return stack_adapters(ADAPTERS)


@jax.jit
def embed(params):
    return ENCODER.module.apply(params, INPUTS).embedding


@jax.jit
def embed_chosen(bank, index):
    return ENCODER.module.apply(choose(bank, index), INPUTS).embedding


def test_each_example_gets_its_own_adapter_and_minus_one_none(bank):
    alone = np.stack([embed(ADAPTERS[0]), embed(ADAPTERS[1]), embed(BASE)])
    assert np.abs(alone[0] - alone[1]).max() > 1e-2 and np.abs(alone[0] - alone[2]).max() > 1e-2
    for index in ([0, 1, 1, -1], [1, -1, 0, 0]):
        expected = alone[index, np.arange(4)]
        np.testing.assert_allclose(embed_chosen(bank, jnp.array(index)), expected, atol=1e-5)


def test_an_index_beyond_the_bank_is_nan_for_its_example_alone(bank):
    got = np.asarray(embed_chosen(bank, jnp.array([0, 2, 1, 0])))
    assert np.isnan(got[1]).all() and np.isfinite(got[[0, 2, 3]]).all()


def test_gradients_reach_the_chosen_adapters_alone(bank):
    trains, frozen = split(bank, trainable.LORA_FACTORS)

    def total(t, frozen, index):
        return jnp.sum(ENCODER.module.apply(choose(tree.merge(t, frozen), index), INPUTS).embedding)

    gradient = jax.jit(jax.grad(total))(trains, frozen, jnp.array([1, 1, 1, -1]))
    found = tree.paths(gradient)
    assert len(found) == 6
    for path, g in found.items():
        one, other = np.moveaxis(np.asarray(g), -3, 0)
        assert not one.any() and np.abs(other).max() > 1e-6, path


def test_what_is_refused(bank):
    with pytest.raises(ConfigError, match="got no index"):
        jax.eval_shape(embed, bank)
    with pytest.raises(ConfigError, match=r"index of shape \(3,\).*one per row"):
        jax.eval_shape(embed_chosen, bank, jnp.zeros(3, jnp.int32))
    with pytest.raises(ConfigError, match=r"float32\[4\], expected int32"):
        choose(bank, jnp.zeros(4))
    with pytest.raises(ConfigError, match="no bank"):
        choose(BASE, jnp.zeros(4, jnp.int32))
    with pytest.raises(ConfigError, match="no LowRank"):
        stack_adapters([BASE, BASE])
    with pytest.raises(ConfigError, match="no adapters"):
        stack_adapters([])
    with pytest.raises(ConfigError, match="in one tree only"):
        stack_adapters([ADAPTERS[0], BASE])
    moved = tree.map_with_path(lambda path, p: p + 1 if path == "pooler/bias" else p, ADAPTERS[1])
    with pytest.raises(ConfigError, match="pooler/bias: trees differ beside"):
        stack_adapters([ADAPTERS[0], moved])
    with pytest.raises(ConfigError, match="different parameters"):
        stack_adapters([ADAPTERS[0], {"layers": ADAPTERS[0]["layers"]}])
