"""A bank of adapters gives each example what its own adapter alone would give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import choose, ia3, lora, qlora, quantized_base, split, stack_adapters, trainable
from erel_jax.encoders import ENCODERS, BertConfig, bert
from erel_jax.encoders.example_inputs import example_inputs
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
    for index in (2, -2):
        got = np.asarray(embed_chosen(bank, jnp.array([0, index, 1, 0])))
        assert np.isnan(got[1]).all() and np.isfinite(got[[0, 2, 3]]).all()
        with pytest.raises(ConfigError, match=rf"index \[{index}\] of 2 adapters, expected 0 to 1"):
            choose(bank, jnp.array([0, index, 1, 0]))


KINDS = {
    "rslora": ("bert", lambda spec, rank: lora(spec, EVERY, rank=rank, alpha=4.0, rank_stabilized=True), None),
    "lora_fused": ("gpt2", lambda spec, rank: lora(spec, EVERY, rank=rank, alpha=3.0 * rank), None),
    "lora_grouped_heads": ("llama", lambda spec, rank: lora(spec, EVERY, rank=rank), None),
    "qlora_int8": ("bert", lambda spec, rank: qlora(spec, "int8", rank=rank), "int8"),
    "qlora_nf4": ("gpt2", lambda spec, rank: qlora(spec, "nf4", rank=rank), "nf4"),
}
FAST = {"xla_backend_optimization_level": 0}
EVERY = [r"layers/.*/kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_low_rank_kind_alone_and_together(kind):
    """Adapters of other ranks and scales, on split and fused kernels and on rounded bases."""
    name, wrap, base = KINDS[kind]
    encoder = ENCODERS[name].build(ENCODERS[name].config.tiny())
    params = drawn(encoder.module.spec, 0)
    params = params if base is None else quantized_base(params, base)
    kept = tree.paths(params)

    def wrapped(seed, rank):
        spec = wrap(encoder.module.spec, rank)
        return tree.map_with_path(
            lambda path, leaf: kept.get(module.canonical(path), leaf),
            drawn(spec, seed),
        )

    alone = [wrapped(1, 2), wrapped(2, 3)]
    inputs = example_inputs(encoder, 4, 5)
    run = jax.jit(lambda p: encoder.module.apply(p, inputs).embedding, compiler_options=FAST)
    each = np.stack([run(one) for one in (*alone, params)])
    together = jax.jit(lambda p, index: encoder.module.apply(choose(p, index), inputs).embedding, compiler_options=FAST)
    index = np.array([1, 0, -1, 1], np.int32)
    got = together(stack_adapters(alone), index)
    np.testing.assert_allclose(got, each[index, np.arange(4)], rtol=1e-4, atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 1e-2


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
    with pytest.raises(ConfigError, match=r"no LowRank kernel .none of any kind"):
        stack_adapters([BASE, BASE])
    vectors = drawn(ia3(SPEC), 4)
    with pytest.raises(ConfigError, match="only Rescaled"):
        stack_adapters([vectors, vectors])
    with pytest.raises(ConfigError, match="no adapters"):
        stack_adapters([])
    with pytest.raises(ConfigError, match="in one tree only"):
        stack_adapters([ADAPTERS[0], BASE])
    moved = tree.map_with_path(lambda path, p: p + 1 if path == "pooler/bias" else p, ADAPTERS[1])
    with pytest.raises(ConfigError, match="pooler/bias: trees differ beside"):
        stack_adapters([ADAPTERS[0], moved])
    with pytest.raises(ConfigError, match="different parameters"):
        stack_adapters([ADAPTERS[0], {"layers": ADAPTERS[0]["layers"]}])


def test_an_adapter_of_scale_zero_stacks_with_others():
    none = adapter(4, 2, 0.0)
    for order in ([none, ADAPTERS[1]], [ADAPTERS[1], none]):
        alone = np.stack([embed(order[0]), embed(order[1])])
        got = embed_chosen(stack_adapters(order), jnp.array([0, 1, 1, 0]))
        np.testing.assert_allclose(got, alone[[0, 1, 1, 0], np.arange(4)], atol=1e-5)


def test_an_index_may_be_a_list_or_of_narrow_integers(bank):
    expected = embed_chosen(bank, jnp.array([0, 1, 1, 0]))
    for index in ([0, 1, 1, 0], np.array([0, 1, 1, 0], np.uint8)):
        np.testing.assert_array_equal(embed(choose(bank, index)), expected)
    many = stack_adapters([adapter(1, 1, 1.0)] * 128)
    assert np.isnan(embed_chosen(many, jnp.array([0, 127, -2, -1], jnp.int8))).any(1).tolist() == [0, 0, 1, 0]
