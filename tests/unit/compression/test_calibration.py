"""What arrives at kernels, static int8 ranges, float8 kernels, and the drift of an encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import compression, module
from erel_jax.adapters import lora, trainable
from erel_jax.compression import LARGEST, MOMENTS, SQUARES, drift, observe
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import BFLOAT16, FLOAT32, Quantized, dense
from erel_jax.layers.float8 import LARGEST as LARGEST_FLOAT8
from erel_jax.layers.kernels import Float8

DRAW = np.random.default_rng(0)


@pytest.fixture(scope="module")
def case():
    encoder = vit(VitConfig.tiny())
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * DRAW.normal(size=s.shape), jnp.float32), encoder.module.spec)
    rows = np.random.default_rng(3).normal(size=(40, 12, 12, 3)).astype(np.float32)
    return encoder, params, rows, jax.jit(lambda p, x: encoder.module.apply(p, {"pixels": x}).embedding)


def two_products(params, x):
    hidden = dense(x, params["up"]["kernel"])
    return dense(jnp.sin(hidden), params["down"]["kernel"])


def test_statistics_are_those_of_the_inputs():
    params = {name: {"kernel": jnp.asarray(DRAW.normal(size=(4, 4)), jnp.float32)} for name in ("up", "down")}
    batches = [DRAW.normal(size=(3, 2, 4)).astype(np.float32) for _ in range(2)]
    x = np.concatenate(batches).reshape(-1, 4)
    inside = np.sin(x @ np.asarray(params["up"]["kernel"]))
    at = r".*/kernel"
    largest, squares, moments = (observe(two_products, params, batches, s, [at]) for s in (LARGEST, SQUARES, MOMENTS))
    assert set(largest) == {"up/kernel", "down/kernel"}
    for path, seen in (("up/kernel", x), ("down/kernel", inside)):
        np.testing.assert_allclose(largest[path], np.abs(seen).max(), rtol=1e-6)
        np.testing.assert_allclose(squares[path], (seen**2).sum(0), rtol=1e-4)
        np.testing.assert_allclose(moments[path], seen.T @ seen, atol=1e-4)
    with pytest.raises(ConfigError, match="no calibration batch"):
        observe(two_products, params, [], LARGEST, [at])
    with pytest.raises(NonFiniteError, match="kernel: NaN or infinity arrived"):
        observe(two_products, params, [np.full((1, 4), np.nan, np.float32)], LARGEST, [at])
    with pytest.raises(ConfigError, match="nothing arrived at \\['third/kernel'\\]"):
        observe(two_products, {**params, "third": params["up"]}, batches, LARGEST, [at])


def test_a_stack_is_observed_layer_by_layer_and_through_adapters(case):
    encoder, params, rows, _ = case
    found = observe(encoder.module.apply, params, [{"pixels": rows[:8]}], LARGEST)
    assert len(found) == 6 and all(value.shape == (3,) for value in found.values())
    np.testing.assert_array_equal(found["layers/attention/query/kernel"], found["layers/attention/key/kernel"])
    wrapped = module.fill(jax.random.key(0), lora(encoder.module.spec, trainable.LORA_TARGETS, rank=2), params)
    same = observe(encoder.module.apply, wrapped, [{"pixels": rows[:8]}], LARGEST, [r"layers/attention/query/kernel"])
    np.testing.assert_allclose(same["layers/attention/query/kernel"], found["layers/attention/query/kernel"], rtol=1e-6)


def test_static_ranges_round_in_fixed_steps_and_cut_off(case):
    kernel = Quantized(jnp.asarray([[127], [-64]], jnp.int8), jnp.asarray([0.5]), step=jnp.asarray(0.1))
    x = np.array([[1.04, -0.26], [99.0, 0.0]], np.float32)
    codes = np.array([[10, -3], [127, 0]])
    expected = codes @ np.array([[127], [-64]]) * 0.1 * 0.5
    np.testing.assert_allclose(dense(jnp.asarray(x), kernel), expected, rtol=1e-6)
    encoder, params, rows, encode = case
    largest = observe(encoder.module.apply, params, [{"pixels": rows}], LARGEST)
    dynamic = compression.quantize_int8(params)
    static = compression.with_static_ranges(dynamic, largest)
    spec = compression.static_ranges_spec(compression.quantize_spec(encoder.module.spec))
    assert jax.tree.structure(spec) == jax.tree.structure(static)
    np.testing.assert_allclose(
        static["layers"]["mlp"]["up"]["kernel"].step, largest["layers/mlp/up/kernel"] / 127, rtol=1e-6
    )
    found = drift(lambda x: encode(params, x), lambda x: encode(static, x), rows, batch=16)
    assert found.cosine_min > 0.99
    wrapped = module.fill(jax.random.key(0), lora(spec, trainable.LORA_TARGETS, rank=2), static)
    np.testing.assert_allclose(encode(wrapped, rows[:4]), encode(static, rows[:4]), atol=1e-5)
    with pytest.raises(ConfigError, match="quantize_int8 first"):
        compression.with_static_ranges(params, largest)
    for headroom in (0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"headroom={headroom}"):
            compression.with_static_ranges(dynamic, largest, headroom=headroom)


def test_float8_keeps_three_bits_and_widens_where_there_is_no_float8_product(case):
    weight = np.array([[1.0, 0.0], [1.06, 0.0], [-448.0, 0.0], [0.3, 0.0]], np.float32)
    kernel = compression.quantize_float8({"kernel": jnp.asarray(weight)}, ["kernel"], dynamic=True)["kernel"]
    assert isinstance(kernel, Float8) and kernel.values.dtype == jnp.float8_e4m3fn
    np.testing.assert_array_equal(kernel.scale, [448 / LARGEST_FLOAT8, 0.0])
    # Between 1 and 2 values are 1/8 apart, between 1/4 and 1/2 1/32.
    np.testing.assert_allclose(kernel.fold(None)[0][:, 0], [1.0, 1.0, -448.0, 0.3125])
    x = jnp.asarray([[1.0, 1.0, 0.0, 2.0]])
    np.testing.assert_allclose(dense(x, kernel, jnp.ones(2)), [[3.625, 1.0]])
    np.testing.assert_allclose(jax.grad(lambda x: dense(x, kernel, None, BFLOAT16)[0, 0])(x)[0, 3], 0.3125)
    encoder, params, rows, encode = case
    quantized = compression.quantize_float8(params)
    spec = compression.float8_spec(encoder.module.spec)
    assert jax.tree.structure(spec) == jax.tree.structure(quantized)
    wrapped = module.fill(jax.random.key(0), lora(spec, trainable.LORA_TARGETS, rank=2), quantized)
    np.testing.assert_allclose(encode(wrapped, rows[:4]), encode(quantized, rows[:4]), atol=1e-5)
    assert compression.cosine_drift(encode(params, rows[:4]), encode(quantized, rows[:4]))["min"] > 0.99
    with pytest.raises(ConfigError, match="float kernel"):
        compression.quantize_float8({"kernel": jnp.zeros(3)}, ["kernel"])


def test_drift_by_hand():
    rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.7, 0.7]], np.float32)
    nothing = drift(jnp.asarray, lambda x: 2 * x, rows, batch=2, k=2)
    assert nothing.recall == 1.0 and nothing.passed and nothing.cosine_min > 0.999999
    # Swapped coordinates send each row to the other end; only row 4 stays.
    swapped = drift(jnp.asarray, lambda x: x[:, ::-1], rows, batch=3, k=1)
    cosines = [0.0, 0.18 / 0.82, 0.0, 0.18 / 0.82, 1.0]
    np.testing.assert_allclose(swapped.cosine_mean, np.mean(cosines), rtol=1e-5)
    # Row 0 looks for row 1 and finds row 2; 1 wants 0 finds 3; 2 wants 3, finds 0; 3 wants 2 finds 1; 4 finds 1 still.
    np.testing.assert_allclose(swapped.recall, 1 / 5)
    assert not swapped.passed and swapped.rows == 5
    assert "recall@1" in swapped.describe() and "fails the gate of 0.995" in swapped.describe()
    with pytest.raises(ConfigError, match="5 rows for k=5"):
        drift(jnp.asarray, jnp.asarray, rows, k=5)
    with pytest.raises(ConfigError, match=r"k=2\.5"):
        drift(jnp.asarray, jnp.asarray, rows, k=2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(NonFiniteError, match=r"compressed embeddings of rows \[0, 1"):
        drift(jnp.asarray, lambda x: x * jnp.nan, rows, k=1)


def test_rebuilt_and_merged_tokens(case):
    encoder, params, rows, encode = case
    with pytest.raises(ConfigError, match=r"merged_tokens=1\.5"):
        compression.with_merged_tokens(encoder, 1.5)  # pyright: ignore[reportArgumentType]
    merged = compression.with_merged_tokens(encoder, 2)
    apply = jax.jit(lambda x: merged.module.apply(params, {"pixels": x}).embedding)
    assert 0.5 < drift(lambda x: encode(params, x), apply, rows, batch=20).cosine_mean < 1.0
    half = compression.rebuilt(encoder, BFLOAT16, layers=2)
    assert half.layers == 2 and type(half.config) is VitConfig
    with pytest.raises(ConfigError, match="cannot merge tokens"):
        compression.with_merged_tokens(bert(BertConfig.tiny("mean"), FLOAT32), 2)
    with pytest.raises(ConfigError, match="no field \\['depth'\\]"):
        compression.rebuilt(encoder, depth=2)
    assert example_inputs(merged)["pixels"].shape[1:] == rows.shape[1:]
