"""Int8 kernels: rounding, stacks, specs, drift, and storage on a full-size encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.compression import cosine_drift, dequantize, quantize_int8, quantize_spec
from erel_jax.encoders import VitConfig, vit
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import FLOAT32, BlockConfig, Quantized, run_stack, stack_spec
from erel_jax.layers import block as transformer_block

CONFIG = BlockConfig(width=16, heads=2, mlp_width=32)


def stack_case():
    spec = {"layers": stack_spec(CONFIG, 3)}
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), jnp.float32), spec)
    return spec, params, jnp.asarray(draw.normal(size=(4, 5, 16)), jnp.float32)


@jax.jit
def forward(params, x):
    return run_stack(lambda p, x: transformer_block(CONFIG, FLOAT32, p, x, None), params["layers"], x, layers=3)[0]


def test_hand_computed_codes():
    weight = jnp.array([[1.27, 0.0, -2.0], [-0.635, 0.0, 1.0]])
    kernel = quantize_int8({"kernel": weight}, ["kernel"])["kernel"]
    np.testing.assert_array_equal(kernel.values, [[127, 0, -127], [-64, 0, 64]])
    np.testing.assert_allclose(kernel.scale, [0.01, 0.0, 2 / 127], rtol=1e-6)
    assert kernel.values.dtype == jnp.int8 and kernel.scale.dtype == jnp.float32


def test_every_weight_is_within_half_a_step():
    _, params, _ = stack_case()
    wide = dequantize(quantize_int8(params))
    assert jax.tree.structure(wide) == jax.tree.structure(params)
    original, restored = params["layers"]["mlp"]["up"]["kernel"], wide["layers"]["mlp"]["up"]["kernel"]
    step = np.abs(original).max(1, keepdims=True) / 127
    assert np.all(np.abs(original - restored) <= step / 2 + 1e-7)


def test_stacks_have_a_scale_per_layer_and_output():
    _, params, x = stack_case()
    quantized = quantize_int8(params)
    kernel = quantized["layers"]["mlp"]["up"]["kernel"]
    assert isinstance(kernel, Quantized)
    assert kernel.values.shape == (3, 16, 32) and kernel.scale.shape == (3, 32)
    assert not isinstance(quantized["layers"]["mlp_norm"]["scale"], Quantized)
    drift = cosine_drift(forward(params, x).reshape(20, 16), forward(quantized, x).reshape(20, 16))
    assert 0.995 < drift["min"] <= drift["p01"] <= drift["mean"] <= 1.0001


def test_static_products_drift_less_than_dynamic_ones():
    _, params, x = stack_case()
    reference = forward(params, x).reshape(20, 16)
    drifts = [
        cosine_drift(reference, forward(quantize_int8(params, dynamic=dynamic), x).reshape(20, 16))["mean"]
        for dynamic in (False, True)
    ]
    assert drifts[0] > drifts[1] > 0.995


def test_spec_and_parameters_agree():
    spec, params, _ = stack_case()
    abstract = module.abstract(quantize_spec(spec))
    quantized = quantize_int8(params)
    assert jax.tree.structure(abstract) == jax.tree.structure(quantized)
    jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f"{a} {b}"), abstract, quantized)
    kernel = quantize_spec(spec)["layers"]["mlp"]["down"]["kernel"]
    assert kernel.values.axes == ("layers", "mlp", "embed") and kernel.scale.axes == ("layers", "embed")


def test_storage_of_a_full_size_encoder_shrinks_almost_fourfold():
    spec = vit(VitConfig.base_16()).module.spec
    before, after = tree.nbytes(module.abstract(spec)), tree.nbytes(module.abstract(quantize_spec(spec)))
    assert 3.7 < before / after < 4.0


def test_what_cannot_be_quantized():
    _, params, _ = stack_case()
    with pytest.raises(ConfigError, match="matches no parameter"):
        quantize_int8(params, ["kernels"])
    with pytest.raises(ConfigError, match=r"norm/scale: got float32\[16\], expected a float kernel"):
        quantize_int8({"norm": {"scale": jnp.ones(16)}}, ["norm/scale"])
    with pytest.raises(ConfigError, match="int8"):
        quantize_int8(quantize_int8(params), [".*/kernel/values"])
    with pytest.raises(NonFiniteError, match="kernel: the kernel holds NaN"):
        quantize_int8({"kernel": jnp.ones((2, 2)).at[0, 0].set(jnp.nan)}, ["kernel"])


def test_drift_of_known_vectors():
    a = jnp.array([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    drift = cosine_drift(a, jnp.array([[2.0, 0.0], [4.0, 3.0], [0.0, 0.0]]))
    assert drift["min"] == pytest.approx(24 / 25) and drift["mean"] == pytest.approx((1 + 24 / 25 + 1) / 3)
    assert cosine_drift(a[2:], a[:1])["min"] == 0.0
    with pytest.raises(ConfigError, match="two equal"):
        cosine_drift(a, a[:2])
