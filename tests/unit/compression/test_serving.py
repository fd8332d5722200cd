"""Rearranged parameters and chunked programs give the encoder's own embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module
from erel_jax.compression import in_chunks, quantize_int8, serving_params
from erel_jax.encoders.bert import BertConfig, bert
from erel_jax.errors import ConfigError
from erel_jax.layers import BFLOAT16, FLOAT32


def small(precision):
    encoder = bert(BertConfig.tiny(), precision)
    params = module.init(jax.random.key(0), encoder.module.spec)
    ids = jax.random.randint(jax.random.key(1), (8, 6), 1, 64)
    return encoder, params, {"ids": ids, "mask": jnp.arange(6)[None] < jnp.arange(8)[:, None] % 6 + 1}


def embedding(encoder):
    return jax.jit(lambda params, inputs: encoder.module.apply(params, inputs).embedding)


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_serving_params_change_no_embedding(precision):
    encoder, params, inputs = small(precision)
    served = serving_params(params, encoder.layers, precision.compute)
    assert len(served["layers"]) == encoder.layers
    assert served["layers"][0]["mlp"]["up"]["kernel"].dtype == precision.compute
    assert served["layers"][0]["mlp"]["up"]["bias"].dtype == jnp.float32
    one, other = (embedding(encoder)(p, inputs) for p in (params, served))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_taps_and_depth_of_unstacked_layers():
    encoder, params, inputs = small(FLOAT32)
    served = serving_params(params, encoder.layers, jnp.float32)
    for taps in ((0,), (0, 2), (1, 3)):
        one, other = (encoder.module.apply(p, inputs, taps=taps, embedding=False).taps for p in (params, served))
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_int8_stacks_stay_stacked():
    encoder, params, _ = small(FLOAT32)
    quantized = quantize_int8(params)
    assert serving_params(quantized, encoder.layers) is quantized


def test_chunks_give_the_rows_of_the_whole():
    encoder, params, inputs = small(FLOAT32)
    encode = embedding(encoder)
    np.testing.assert_allclose(jax.jit(in_chunks(encode, 2))(params, inputs), encode(params, inputs), atol=1e-6)
    np.testing.assert_array_equal(in_chunks(encode, 8)(params, inputs), encode(params, inputs))


def test_wrong_arguments_are_refused():
    encoder, params, inputs = small(FLOAT32)
    with pytest.raises(ConfigError, match="8 rows in chunks of 3"):
        in_chunks(embedding(encoder), 3)(params, inputs)
    with pytest.raises(ConfigError, match="'layers'"):
        serving_params({"table": jnp.zeros((2, 2))}, 1)
