"""Low-rank updates over quantized bases: the same as over the rounded kernels in float."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import lora, qlora, quantized_base, trainable
from erel_jax.compression import dequantize, dequantize_nf4
from erel_jax.encoders import ENCODERS
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import LowRank, Nf4, Quantized

WIDEN = {"int8": dequantize, "nf4": dequantize_nf4}
KIND = {"int8": Quantized, "nf4": Nf4}
# Every large kernel of a layer, split or fused.
KERNELS = {
    "bert": {"attention/query", "attention/key", "attention/value", "attention/output", "mlp/up", "mlp/down"},
    "gpt2": {"attention/qkv", "attention/output", "mlp/up", "mlp/down"},
    "llama": {
        *("attention/query", "attention/key", "attention/value", "attention/output"),
        *("mlp/gate", "mlp/up", "mlp/down"),
    },
}


def drawn(spec, seed=1):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray((0.3 * draw.normal(size=s.shape)).astype(np.float32)), spec)


QUICK = (("gpt2", "nf4"),)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(KERNELS, WIDEN)
    ],
)
def test_is_lora_over_the_rounded_kernels(name, base):
    encoder = ENCODERS[name].build(ENCODERS[name].config.tiny())
    spec, params = encoder.module.spec, drawn(encoder.module.spec)
    rounded = quantized_base(params, base)
    adapted = module.fill(jax.random.key(0), qlora(spec, base, rank=2, alpha=6.0), rounded)
    # B starts at zero; another value shows that the update is there.
    adapted = tree.map_with_path(lambda path, x: x + 0.3 if path.endswith("kernel/b") else x, adapted)
    plain = module.fill(jax.random.key(0), lora(spec, trainable.LORA_TARGETS, rank=2, alpha=6.0), WIDEN[base](rounded))
    plain = tree.map_with_path(lambda path, x: x + 0.3 if path.endswith("kernel/b") else x, plain)
    inputs = example_inputs(encoder, 2, 5)
    run = jax.jit(lambda p: encoder.module.apply(p, inputs).embedding)
    np.testing.assert_allclose(run(adapted), run(plain), rtol=1e-4, atol=1e-5)
    assert np.abs(run(adapted) - run(params)).max() > 1e-3
    layers = adapted["layers"]
    kinds = {
        f"{part}/{kernel}": type(node["kernel"].base if isinstance(node["kernel"], LowRank) else node["kernel"])
        for part in ("attention", "mlp")
        for kernel, node in layers[part].items()
    }
    assert kinds == dict.fromkeys(KERNELS[name], KIND[base])


def test_a_block_divides_any_width():
    kernels = {"kernel": module.ParamSpec((24, 6), (None, None))}, {"kernel": module.ParamSpec((128, 6), (None, None))}
    spec = {"attention": {"query": kernels[0]}, "mlp": {"up": kernels[1]}}
    rounded = quantized_base(drawn(spec))
    assert rounded["attention"]["query"]["kernel"].scale.shape == (3, 6)
    assert rounded["mlp"]["up"]["kernel"].scale.shape == (2, 6)


def test_an_unknown_base_is_refused():
    for call in (quantized_base, qlora):
        with pytest.raises(ConfigError, match=r"unknown base 'nf8'.*nf4"):
            call({}, "nf8")  # type: ignore
