"""LoRA: what it wraps, its initialization, its scale, merging, and its counts on real encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import lora, merge_lora, split, trainable, unmerge_lora
from erel_jax.compression import quantize_int8, quantize_spec
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, LowRank, dense, run_stack, stack_spec
from erel_jax.layers import block as transformer_block
from erel_jax.module import ParamSpec

CONFIG = BlockConfig(width=8, heads=2, mlp_width=16)
QUERY_VALUE = ["layers/attention/(query|value)/kernel"]


def stack_case():
    spec = {"layers": stack_spec(CONFIG, 3)}
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), jnp.float32), spec)
    return spec, params, jnp.asarray(draw.normal(size=(2, 3, 8)), jnp.float32)


@jax.jit
def forward(params, x):
    def layer(p, x):
        return transformer_block(CONFIG, FLOAT32, p, x, None)

    return run_stack(layer, params["layers"], x, layers=3)[0]


def trained_case(**options):
    """A wrapped stack whose factors are both nonzero, as after training."""
    spec, params, x = stack_case()
    wrapped = module.fill(jax.random.key(0), lora(spec, QUERY_VALUE, rank=2, **options), params)
    draw = np.random.default_rng(1)

    def move(path, leaf):
        return jnp.asarray(draw.normal(size=leaf.shape), jnp.float32) if path.endswith(("/a", "/b")) else leaf

    return tree.map_with_path(move, wrapped), params, x


def test_only_matching_kernels_are_wrapped_with_stacked_factors():
    spec, _, _ = stack_case()
    attention = lora(spec, QUERY_VALUE, rank=2)["layers"]["attention"]
    assert isinstance(attention["query"]["kernel"], LowRank) and isinstance(attention["key"]["kernel"], ParamSpec)
    assert attention["value"]["kernel"].a.shape == (3, 8, 2)
    assert attention["value"]["kernel"].a.axes == ("layers", "embed", "rank")
    assert attention["value"]["kernel"].b.shape == (3, 2, 8)
    assert attention["value"]["kernel"].b.axes == ("layers", "rank", "heads")


def test_a_wrapped_model_starts_unchanged():
    spec, params, x = stack_case()
    wrapped = module.fill(jax.random.key(0), lora(spec, QUERY_VALUE), params)
    np.testing.assert_array_equal(forward(params, x), forward(wrapped, x))


def test_initialization_of_the_factors():
    spec = {"kernel": ParamSpec((400, 50), ("embed", "mlp"))}
    kernel = module.init(jax.random.key(0), lora(spec, ["kernel"], rank=50))["kernel"]
    assert float(jnp.max(jnp.abs(kernel.a))) <= 1 / 20
    assert float(jnp.std(kernel.a)) == pytest.approx(1 / 20 / np.sqrt(3), rel=0.05)
    np.testing.assert_array_equal(kernel.b, 0.0)


def test_scales():
    spec = {"kernel": ParamSpec((40, 50), ("embed", "mlp"))}
    assert lora(spec, ["kernel"], rank=16, alpha=8.0)["kernel"].scale == 0.5
    assert lora(spec, ["kernel"], rank=16, alpha=8.0, rank_stabilized=True)["kernel"].scale == 2.0


def test_merge_gives_plain_kernels_with_the_same_function():
    wrapped, params, x = trained_case(alpha=0.5)
    merged = merge_lora(wrapped)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    kernel = wrapped["layers"]["attention"]["query"]["kernel"]
    update = 0.25 * np.einsum("lir,lro->lio", np.asarray(kernel.a), np.asarray(kernel.b))
    expected = np.asarray(kernel.base) + update
    np.testing.assert_allclose(merged["layers"]["attention"]["query"]["kernel"], expected, atol=1e-6)
    np.testing.assert_allclose(forward(merged, x), forward(wrapped, x), atol=1e-4)
    assert not np.allclose(forward(merged, x), forward(params, x), atol=1e-2)


def test_merge_and_unmerge_round_trip():
    wrapped, _, _ = trained_case()
    back = unmerge_lora(merge_lora(wrapped), wrapped)
    assert jax.tree.structure(back) == jax.tree.structure(wrapped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), back, wrapped)


def test_unmerge_needs_the_merged_tree():
    wrapped, _, _ = trained_case()
    with pytest.raises(ConfigError, match="no kernel 'layers/attention/query/kernel'"):
        unmerge_lora(wrapped, wrapped)


def test_over_int8_kernels():
    spec, params, x = stack_case()
    quantized = quantize_int8(params)
    wrapped_spec = lora(quantize_spec(spec), QUERY_VALUE, rank=2)
    wrapped = module.fill(jax.random.key(0), wrapped_spec, quantized)
    assert wrapped["layers"]["attention"]["query"]["kernel"].base.values.dtype == jnp.int8
    np.testing.assert_array_equal(forward(wrapped, x), forward(quantized, x))
    factors, frozen = split(wrapped, trainable.LORA_FACTORS)
    gradient = jax.jit(jax.grad(lambda f: jnp.sum(forward(tree.merge(f, frozen), x) ** 2)))(factors)
    assert len(tree.paths(gradient)) == 4 and all(path.endswith(("/a", "/b")) for path in tree.paths(gradient))
    assert np.any(np.asarray(gradient["layers"]["attention"]["query"]["kernel"].b))
    with pytest.raises(ConfigError, match="cannot merge a low-rank update into a Quantized"):
        merge_lora(wrapped)


def test_counts_on_full_size_encoders():
    specs = {"text": bert(BertConfig(pooling="pooler")).module.spec, "image": vit(VitConfig.base_16()).module.spec}
    wrapped = lora(specs, trainable.LORA_TARGETS, rank=8)
    assert module.count(wrapped) - module.count(specs) == 589_824
    assert module.count(split(wrapped, trainable.LORA_FACTORS)[0]) == 589_824
    assert module.count(split(wrapped, trainable.LORA)[0]) == 833_600 - 206_912


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("layers/attention/qeury/kernel", "matches no parameter"),
        ("layers/attention/query/bias", r"expected a kernel \[D, F\]"),
    ],
)
def test_what_cannot_be_wrapped(pattern, match):
    spec, _, _ = stack_case()
    with pytest.raises(ConfigError, match=match):
        lora(spec, [pattern])


def test_parameters_are_filled_not_wrapped():
    _, params, _ = stack_case()
    with pytest.raises(ConfigError, match=r"module\.fill"):
        lora(params, QUERY_VALUE)


def test_rank_must_fit():
    spec, _, _ = stack_case()
    with pytest.raises(ConfigError, match="rank 9 is larger"):
        lora(spec, QUERY_VALUE, rank=9)
    with pytest.raises(ConfigError, match="rank=0"):
        lora(spec, QUERY_VALUE, rank=0)


def test_wraps_compose():
    spec = {"kernel": ParamSpec((4, 5), ("embed", "mlp"))}
    twice = module.init(jax.random.key(0), lora(lora(spec, ["kernel"], rank=1), ["kernel"], rank=2))
    assert isinstance(twice["kernel"].base, LowRank)
    x = jnp.ones((2, 4))
    np.testing.assert_allclose(dense(x, twice["kernel"]), x @ twice["kernel"].base.base, atol=1e-6)
