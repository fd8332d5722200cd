"""Grouped kernels: rounding and packing by hand, products, stacks and adapters, and GPTQ against plain rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import lora, trainable
from erel_jax.compression import MOMENTS, dequantize_grouped, grouped_spec, observe, quantize_grouped, serving_params
from erel_jax.encoders import VitConfig, vit
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import BFLOAT16, FLOAT32, dense

DRAW = np.random.default_rng(0)
WEIGHT = (DRAW.normal(size=(32, 5)) + 0.5).astype(np.float32)
WEIGHT[:16, 3] = 0.0
KINDS = [(4, True), (4, False), (8, True), (8, False)]


def rounded(bits, symmetric, group=16):
    """Nearest values, group by group and column by column."""
    values = np.empty(WEIGHT.shape)
    for start in range(0, 32, group):
        for out in range(5):
            rows = WEIGHT[start : start + group, out].astype(np.float64)
            low, high = (-np.abs(rows).max(), np.abs(rows).max()) if symmetric else (rows.min(), rows.max())
            step = (high - low) / (2**bits - 1 - symmetric)
            grid = low + step * np.arange(2**bits - symmetric)
            values[start : start + group, out] = grid[np.abs(rows[:, None] - grid).argmin(1)]
    return values


@pytest.mark.parametrize(("bits", "symmetric"), KINDS)
def test_rounds_to_the_nearest_of_evenly_spaced_values(bits, symmetric):
    kernel = quantize_grouped({"kernel": jnp.asarray(WEIGHT)}, ["kernel"], bits=bits, group=16, symmetric=symmetric)[
        "kernel"
    ]
    assert kernel.codes.shape == (32 * bits // 8, 5) and kernel.codes.dtype == jnp.uint8
    assert kernel.scale.shape == (2, 5) and (kernel.lowest is None) == symmetric
    plain = np.asarray(dequantize_grouped({"kernel": kernel})["kernel"])
    np.testing.assert_allclose(plain, rounded(bits, symmetric), atol=1e-5)
    np.testing.assert_array_equal(plain[:16, 3], 0.0)
    x = jnp.asarray(DRAW.normal(size=(2, 3, 32)), jnp.float32)
    bias = jnp.arange(5.0)
    for precision, tolerance in ((FLOAT32, 1e-4), (BFLOAT16, 0.2)):
        y, back = jax.vjp(lambda x, p=precision: dense(x, kernel, bias, p), x)
        np.testing.assert_allclose(y, np.asarray(x) @ plain + np.arange(5.0), atol=tolerance)
        np.testing.assert_allclose(back(jnp.ones_like(y))[0], np.ones((2, 3, 5)) @ plain.T, atol=tolerance)
    assert kernel.fold(None)[0].dtype == jnp.float32


def test_asymmetric_is_finer_for_lopsided_weights():
    lopsided = {"kernel": jnp.asarray(np.abs(WEIGHT) + 2.0)}
    errors = [
        float(jnp.abs(dequantize_grouped(quantize_grouped(lopsided, ["kernel"], group=16, symmetric=s))["kernel"]
                      - lopsided["kernel"]).mean())
        for s in (True, False)
    ]  # fmt: skip
    assert errors[1] < 0.5 * errors[0]


def encoder_case():
    encoder = vit(VitConfig.tiny())
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * draw.normal(size=s.shape), jnp.float32), encoder.module.spec)
    return encoder, params, example_inputs(encoder)


def test_a_stack_is_rewritten_like_its_spec_and_takes_adapters():
    encoder, params, inputs = encoder_case()
    spec = encoder.module.spec
    encode = jax.jit(lambda p: encoder.module.apply(p, inputs).embedding)
    for bits, symmetric in ((4, True), (8, False)):
        options = {"bits": bits, "group": 8, "symmetric": symmetric}
        quantized, rewritten = quantize_grouped(params, **options), grouped_spec(spec, **options)
        assert jax.tree.structure(rewritten) == jax.tree.structure(quantized)
        same = jax.tree.map(lambda s, p: (s.shape, s.dtype) == (p.shape, p.dtype), rewritten, quantized)
        assert all(jax.tree.leaves(same))
    reference = encode(quantized)
    np.testing.assert_allclose(encode(dequantize_grouped(quantized)), reference, atol=1e-4)
    wrapped = module.fill(jax.random.key(0), lora(rewritten, trainable.LORA_TARGETS, rank=2), quantized)
    np.testing.assert_allclose(encode(wrapped), reference, atol=1e-5)
    assert lora(grouped_spec(spec, group=8), trainable.LORA_TARGETS, rank=2)["layers"]["attention"]["query"][
        "kernel"
    ].a.shape == (3, 16, 2)
    assert serving_params(quantized, 3) is quantized
    full = vit(VitConfig()).module.spec
    kernels = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    saved = tree.nbytes(module.abstract(full)) - tree.nbytes(module.abstract(grouped_spec(full)))
    assert saved == kernels * (4 - 4.25 / 8)


def test_gptq_leaves_less_error_in_the_output_than_rounding_to_nearest():
    """With correlated inputs; with uncorrelated ones nothing can be made up for."""
    mix = DRAW.normal(size=(64, 64)) * (0.9 ** np.arange(64))[:, None]
    x = (DRAW.normal(size=(512, 64)) @ mix).astype(np.float32)
    weight = jnp.asarray(DRAW.normal(size=(64, 24)), jnp.float32)
    for bits, symmetric in ((4, True), (4, False), (8, True)):
        options = {"bits": bits, "group": 32, "symmetric": symmetric}
        errors = []
        for moments in (None, {"kernel": jnp.asarray(x.T @ x)}):
            kernel = quantize_grouped({"kernel": weight}, ["kernel"], moments=moments, **options)["kernel"]
            errors.append(float(np.square(x @ np.asarray(kernel.fold(None)[0]) - x @ np.asarray(weight)).mean()))
        assert errors[1] < 0.6 * errors[0], (bits, symmetric, errors)
    # Uncorrelated inputs of equal power: the same codes as rounding to nearest.
    flat = {"kernel": jnp.eye(64)}
    kernels = [quantize_grouped({"kernel": weight}, ["kernel"], moments=m, group=32)["kernel"] for m in (None, flat)]
    np.testing.assert_array_equal(kernels[0].codes, kernels[1].codes)


def test_gptq_over_an_encoder_from_calibration_rows():
    encoder, params, inputs = encoder_case()
    moments = observe(encoder.module.apply, params, [inputs], MOMENTS)
    exact = encoder.module.apply(params, inputs).embedding
    quantized = quantize_grouped(params, group=8, moments=moments)
    drifted = jax.jit(encoder.module.apply)(quantized, inputs).embedding
    plain = jax.jit(encoder.module.apply)(quantize_grouped(params, group=8), inputs).embedding
    assert float(jnp.square(drifted - exact).mean()) < float(jnp.square(plain - exact).mean())


def test_what_is_refused():
    params = {"kernel": jnp.asarray(WEIGHT), "bias": jnp.zeros(5)}
    with pytest.raises(ConfigError, match="bits=3"):
        quantize_grouped(params, ["kernel"], bits=3)
    with pytest.raises(ConfigError, match="group=128 must be even and divide the 32"):
        quantize_grouped(params, ["kernel"])
    with pytest.raises(ConfigError, match="expected a float kernel"):
        grouped_spec(params, ["bias"])
    with pytest.raises(ConfigError, match="expected \\[32, 32\\]"):
        quantize_grouped(params, ["kernel"], group=16, moments={"kernel": jnp.eye(5)})
    with pytest.raises(NonFiniteError, match="NaN"):
        quantize_grouped({"kernel": jnp.full((32, 5), jnp.nan)}, ["kernel"], group=16)
