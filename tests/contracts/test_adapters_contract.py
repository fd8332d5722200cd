"""Adapters go on any kernel of any encoder by pattern: the model is unchanged at the start, gradients are finite.

Kernels may be split or fused, of one width or of grouped heads, in a stack or outside it. One pair of each kind is in
the default run, the others are slow tests.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import compacter, dora, houlsby, ia3, lora, parallel, split, trainable, vera
from erel_jax.encoders import ENCODERS
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError

FAMILIES = ("bert", "gpt2", "llama", "modernbert", "vit", "beit", "siglip_vision_model", "whisper")
EVERY = (r"(?:embeddings|layers|projection|pooler)/(?:.*/)?kernel",)
REWRITES = {
    "lora": (lambda spec: lora(spec, EVERY, rank=2), trainable.LORA_FACTORS),
    "dora": (lambda spec: dora(spec, EVERY, rank=2), trainable.DORA),
    "vera": (lambda spec: vera(spec, EVERY, rank=4), trainable.VERA),
    "ia3": (lambda spec: ia3(spec, [r"layers/attention/.*/kernel"], [r"layers/mlp/.*/kernel"]), trainable.IA3),
    "houlsby": (lambda spec: houlsby(spec, EVERY, bottleneck=4), trainable.HOULSBY),
    "compacter": (lambda spec: compacter(spec, EVERY, bottleneck=4, terms=2), trainable.COMPACTER),
    "parallel": (lambda spec: parallel(spec, bottleneck=4), trainable.PARALLEL),
}
GATED = ("llama", "modernbert")
QUICK = {("gpt2", "lora"), ("vit", "houlsby"), ("gpt2", "ia3")}
# Compiling is what these tests cost.
FAST = {"xla_backend_optimization_level": 0}


def cases():
    pairs = [(f, r) for f, r in itertools.product(FAMILIES, REWRITES) if not (r == "parallel" and f in GATED)]
    return [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in pairs]


def drawn(spec, seed=1):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray((0.3 * draw.normal(size=s.shape)).astype(np.float32)), spec)


@pytest.mark.parametrize(("family", "rewrite"), cases())
def test_any_kernel_of_any_encoder(family, rewrite):
    encoder = ENCODERS[family].build(ENCODERS[family].config.tiny())
    wrap, patterns = REWRITES[rewrite]
    spec, params = wrap(encoder.module.spec), drawn(encoder.module.spec)
    inputs = example_inputs(encoder, 2, 5)
    trains, frozen = split(module.fill(jax.random.key(0), spec, params), patterns)

    def total(t, frozen):
        embedding = encoder.module.apply(tree.merge(t, frozen), inputs).embedding
        return jnp.sum(jnp.sin(embedding)), embedding

    run = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=FAST)
    (_, embedding), _ = run(trains, frozen)
    plain = jax.jit(lambda p: encoder.module.apply(p, inputs).embedding, compiler_options=FAST)(params)
    np.testing.assert_allclose(embedding, plain, rtol=1e-5, atol=1e-5)
    # Away from the start, where factors that are zero would hide each other's gradients.
    moved = jax.tree.map(lambda x, noise: x + noise, trains, drawn(trains, 2))
    (_, changed), gradient = run(moved, frozen)
    assert np.abs(np.asarray(changed) - np.asarray(plain)).max() > 1e-3
    for path, leaf in tree.paths(gradient).items():
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_a_gated_mlp_has_no_parallel_adapter():
    spec = ENCODERS["llama"].build(ENCODERS["llama"].config.tiny()).module.spec
    with pytest.raises(ConfigError, match="gated"):
        parallel(spec)


def test_default_patterns_find_fused_kernels():
    spec = ENCODERS["gpt2"].build(ENCODERS["gpt2"].config.tiny()).module.spec
    wrapped = tree.paths(lora(spec, trainable.LORA_TARGETS, rank=2))
    assert {path for path in wrapped if path.endswith("kernel/a")} == {"layers/attention/qkv/kernel/a"}
    trains, _ = split(lora(spec, trainable.LORA_TARGETS, rank=2), trainable.LORA)
    assert set(tree.paths(trains)) == {f"layers/attention/qkv/{leaf}" for leaf in ("kernel/a", "kernel/b", "bias")}
    assert "layers/attention/qkv/kernel/output_scale" in tree.paths(ia3(spec))
