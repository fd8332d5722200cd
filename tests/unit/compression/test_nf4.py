"""NF4 kernels: the codebook, rounding, packing, products, and QLoRA on a stack."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import dora, lora, split, trainable
from erel_jax.compression import dequantize_nf4, nf4_spec, quantize_nf4, serving_params
from erel_jax.encoders import BertConfig, bert
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import BFLOAT16, FLOAT32, BlockConfig, dense, run_stack, stack_spec
from erel_jax.layers import block as transformer_block
from erel_jax.layers.nf4 import CODEBOOK

DRAW = np.random.default_rng(0)
WEIGHT = DRAW.normal(size=(128, 5)).astype(np.float32)
WEIGHT[:64, 3] = 0.0
X = jnp.asarray(DRAW.normal(size=(2, 3, 128)).astype(np.float32))


@pytest.fixture(scope="module")
def kernel():
    return quantize_nf4({"kernel": jnp.asarray(WEIGHT)}, ["kernel"])["kernel"]


def rounded(block=64):
    """The nearest codeword of every weight, by search over all of them."""
    blocks = WEIGHT.reshape(-1, block, 5).astype(np.float64)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    unit = blocks / np.where(scale > 0, scale, 1)
    book = np.array(CODEBOOK)
    nearest = np.abs(unit[..., None] - book).argmin(-1)
    return nearest.reshape(128, 5), (book[nearest] * scale).reshape(128, 5), scale[:, 0]


def test_codebook_is_that_of_normal_quantiles():
    """Appendix E: equal probability steps of N(0, 1) on either side of an exact zero, scaled to end at ±1."""
    quantile = statistics.NormalDist().inv_cdf
    upper = [quantile(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]
    lower = [-quantile(p) for p in np.linspace(0.9677083, 0.5, 8)[:-1]]
    np.testing.assert_allclose(CODEBOOK, np.sort([*lower, 0.0, *upper]) / max(upper), atol=1e-6)


def test_rounds_to_the_nearest_and_packs_two_rows_in_a_byte(kernel):
    codes, values, scale = rounded()
    assert kernel.codes.dtype == jnp.uint8 and kernel.codes.shape == (64, 5) and kernel.scale.shape == (2, 5)
    np.testing.assert_array_equal(kernel.codes, codes[0::2] * 16 + codes[1::2])
    np.testing.assert_allclose(kernel.scale, scale, rtol=1e-6)
    plain = dequantize_nf4({"kernel": kernel})["kernel"]
    np.testing.assert_allclose(plain, values, atol=1e-6)
    np.testing.assert_array_equal(plain[:64, 3], 0.0)
    assert 0.05 < np.abs(values - WEIGHT).max() / np.abs(WEIGHT).max() < 0.16


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
def test_product_and_input_gradient_are_those_of_the_widened_kernel(kernel, precision):
    _, values, _ = rounded()
    values = np.asarray(jnp.asarray(values, jnp.float32).astype(precision.compute), np.float64)
    x = np.asarray(X.astype(precision.compute), np.float64)

    def run(x):
        y = dense(x, kernel, jnp.ones(5), precision)
        return jnp.sum(y * y) / 2, y

    (_, y), dx = jax.jit(jax.value_and_grad(run, has_aux=True))(X)
    np.testing.assert_allclose(y, x @ values + 1, atol=1e-3)
    dy = np.asarray(jnp.asarray(x @ values + 1, jnp.float32).astype(precision.compute), np.float64)
    np.testing.assert_allclose(dx, dy @ values.T, atol=1e-3 if precision is FLOAT32 else 0.5)


def test_qlora_trains_the_factors_over_a_frozen_4_bit_stack():
    config = BlockConfig(width=64, heads=2, mlp_width=64)
    spec = {"layers": stack_spec(config, 2)}
    params = jax.tree.map(lambda s: jnp.asarray((0.2 * DRAW.normal(size=s.shape)).astype(np.float32)), spec)
    quantized = quantize_nf4(params)
    assert jax.tree.structure(nf4_spec(spec)) == jax.tree.structure(quantized)
    shapes = jax.tree.map(lambda s, p: (s.shape, s.dtype) == (p.shape, p.dtype), nf4_spec(spec), quantized)
    assert all(jax.tree.leaves(shapes))
    x = X[..., :64]

    @jax.jit
    def forward(params, x):
        return run_stack(lambda p, x: transformer_block(config, FLOAT32, p, x, None), params["layers"], x, layers=2)[0]

    reference = forward(quantized, x)
    np.testing.assert_allclose(forward(dequantize_nf4(quantized), x), reference, atol=1e-4)
    assert dora(nf4_spec(spec), trainable.LORA_TARGETS)["layers"]["attention"]["query"]["kernel"].a.shape == (2, 64, 8)
    wrapped = module.fill(jax.random.key(0), lora(nf4_spec(spec), trainable.LORA_TARGETS, rank=2), quantized)
    trains, frozen = split(wrapped, trainable.LORA_FACTORS)

    def total(t, frozen):
        y = forward(tree.merge(t, frozen), x)
        return jnp.sum(y**2), y

    (_, y), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(trains, frozen)
    np.testing.assert_allclose(y, reference, atol=1e-5)
    found = tree.paths(gradient)
    assert len(found) == 4 and all(np.abs(g).max() > 1e-3 for path, g in found.items() if path.endswith("/b"))
    assert serving_params(quantized, 2) is quantized


def test_size_of_a_full_size_encoder():
    spec = bert(BertConfig()).module.spec
    kernels = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    saved = tree.nbytes(module.abstract(spec)) - tree.nbytes(module.abstract(nf4_spec(spec)))
    assert saved == kernels * 4 - kernels * 4.5 / 8


def test_what_is_refused():
    params = {"kernel": jnp.asarray(WEIGHT), "bias": jnp.zeros(5)}
    with pytest.raises(ConfigError, match="block=48 must be even and divide the 128"):
        quantize_nf4(params, ["kernel"], block=48)
    with pytest.raises(ConfigError, match="expected a float kernel"):
        quantize_nf4(params, ["bias"])
    with pytest.raises(ConfigError, match="matches no parameter"):
        nf4_spec(params, ["kernal"])
    with pytest.raises(NonFiniteError, match="kernel: the kernel holds NaN"):
        quantize_nf4({"kernel": jnp.asarray(np.where(WEIGHT > 2, np.nan, WEIGHT))}, ["kernel"])
