"""A LoRA step keeps no full-size weight gradient: memory as the compiler plans it, and what the optimizer holds.

The yardstick is the same training step with one small parameter below the stack (the bias of the embedding norm): the
frozen forward pass, the activations that any gradient needs, and no gradient of a kernel. In float32, because XLA's CPU
backend of JAX 0.10 keeps the stacked bfloat16 inputs of the factors in float32. The width is 48 times the rank (96
times in BERT-base): the factors' own gradients and states count as well.
"""

import jax
import jax.numpy as jnp
import pytest

from erel_jax import module, tree
from erel_jax.adapters import lora, split, trainable
from erel_jax.encoders import BertConfig, bert
from erel_jax.training import adam, new_state, train_step

ENCODER = bert(BertConfig(vocabulary=512, width=384, layers=12, heads=6, mlp_width=1536, max_positions=32))
SPEC = ENCODER.module.spec
CASES = {
    "yardstick": (SPEC, ["embeddings/norm/bias"]),
    "lora": (lora(SPEC, trainable.LORA_TARGETS, rank=8), trainable.LORA_FACTORS),
    "full": (SPEC, trainable.FULL),
}


def state_of(name):
    """(abstract state, abstract frozen parameters) of a case."""
    spec, patterns = CASES[name]
    trains, frozen = split(module.abstract(spec), patterns)
    return jax.eval_shape(lambda t: new_state(t, adam(1e-3), jax.random.key(0)), trains), frozen


def temporary_bytes(name):
    """What the compiled step needs beside its arguments and results."""

    def loss(params, batch, key):
        return jnp.mean(ENCODER.module.apply(params, batch, key=key, train=True).embedding ** 2), {}

    batch = {"ids": jax.ShapeDtypeStruct((8, 32), jnp.int32), "mask": jax.ShapeDtypeStruct((8, 32), jnp.bool_)}
    compiled = jax.jit(train_step(loss, adam(1e-3)).fn).lower(*state_of(name), batch).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        pytest.skip("the backend reports no memory analysis")
    return analysis.temp_size_in_bytes


KERNELS = tree.nbytes(tree.partition(module.abstract(SPEC), ["layers/.*/kernel"])[0])


def test_a_lora_step_needs_little_more_than_the_activations():
    needed = {name: temporary_bytes(name) for name in ("yardstick", "lora")}
    print(needed)
    assert needed["lora"] <= 1.1 * needed["yardstick"]
    assert needed["lora"] - needed["yardstick"] < KERNELS / 4


@pytest.mark.slow
def test_the_measure_sees_the_gradients_of_full_fine_tuning():
    assert temporary_bytes("full") >= temporary_bytes("yardstick") + KERNELS


def test_optimizer_state_exists_for_the_factors_alone():
    state, frozen = state_of("lora")
    factors = set(tree.paths(state.trainable))
    assert factors == {f"layers/attention/{n}/kernel/{f}" for n in ("query", "value") for f in "ab"}
    arrays = [leaf for leaf in jax.tree.leaves(state.optimizer_state) if leaf.ndim]
    assert sorted(a.shape for a in arrays) == sorted(2 * [leaf.shape for leaf in jax.tree.leaves(state.trainable)])
    assert not factors & set(tree.paths(frozen)) and module.count(frozen) == module.count(SPEC)
