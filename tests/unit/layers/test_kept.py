"""Half-precision arrays as bits, and that a stack's backward loop keeps them so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.encoders import VitConfig, vit
from erel_jax.layers import BFLOAT16
from erel_jax.layers.kept import as_bits, from_bits


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_there_and_back(dtype):
    x = jnp.asarray([0.0, -0.0, 1.5, -3e-5, jnp.inf, jnp.nan], dtype)
    bits = as_bits(x)
    assert bits.dtype == jnp.uint16
    np.testing.assert_array_equal(np.asarray(from_bits(bits, dtype)).view(np.uint16), np.asarray(x).view(np.uint16))


def test_what_is_no_half_stays_as_it_is():
    wide, numbers = jnp.ones(3), jnp.ones(3, jnp.int16)
    assert as_bits(wide) is wide and as_bits(numbers) is numbers and as_bits(None) is None
    assert from_bits(wide, jnp.float32) is wide and from_bits(None, jnp.bfloat16) is None


def test_a_stack_keeps_half_precision_for_its_backward_loop():
    """The widest arrays of a block, [B, L, F], wait as two arrays of two bytes: the MLP's argument and its result."""
    encoder = vit(VitConfig(image_size=32, patch=8, width=32, layers=3, heads=2, mlp_width=256), BFLOAT16)
    params = module.abstract(encoder.module.spec)
    pixels = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def loss(params, pixels):
        return jnp.sum(encoder.module.apply(params, {"pixels": pixels}).embedding)

    text = str(jax.jit(jax.grad(loss)).lower(params, pixels).compile().as_text())
    (backward,) = (line for line in text.splitlines() if " while(" in line and "transpose" in line)
    carried = backward.split(" while(")[0]
    assert carried.count("u16[3,2,17,256]") == 2
    assert "f32[3,2,17,256]" not in carried
