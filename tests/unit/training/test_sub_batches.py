"""Encoding in sub-batches against the whole batch: gradients, replayed dropout, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses, module
from erel_jax.encoders import VitConfig, vit
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32
from erel_jax.sharding import compile_step
from erel_jax.training import adam, in_sub_batches, new_state, train_step

BATCH, ROWS = 12, 4


def inputs(batch):
    left, right = np.random.default_rng(1).standard_normal((2, batch, 6), np.float32)
    return {"left": left, "right": right}


@functools.cache
def tower(dropout=0.0):
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"in": jax.random.normal(keys[0], (6, 16)), "out": jax.random.normal(keys[1], (16, 5))}

    def encode(params, inputs, key):
        def side(x, key):
            hidden = jnp.tanh(x @ params["in"])
            if key is not None:
                hidden = jnp.where(jax.random.bernoulli(key, 1 - dropout, hidden.shape), hidden, 0.0)
            return hidden @ params["out"]

        keys = {name: jax.random.fold_in(key, i) if dropout else None for i, name in enumerate(inputs)}
        return {name: side(x, keys[name]) for name, x in inputs.items()}

    return encode, params


def losses_of(encode, contrast):
    def loss(params, batch, key):
        vectors = encode(params, batch, key)
        return contrast(vectors["left"], vectors["right"], jnp.float32(2.0))

    return quick(jax.value_and_grad(loss))


quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
BATCHES = inputs(BATCH)


def assert_equal(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize("loss", [losses.symmetric_info_nce, losses.chunked_info_nce])
def test_gradients_are_those_of_the_whole_batch(loss):
    encode, params = tower()
    expected = losses_of(encode, loss)(params, BATCHES, None)
    assert_equal(losses_of(in_sub_batches(encode, ROWS), loss)(params, BATCHES, None), expected)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected[1])) > 1e-3


def test_dropout_is_replayed():
    """The whole batch, encoded part by part with the same keys but without forgetting anything."""
    encode, params = tower(dropout=0.5)

    def in_parts(params, inputs, key):
        cut = [jax.tree.map(lambda x, i=i: x[i * ROWS : (i + 1) * ROWS], inputs) for i in range(BATCH // ROWS)]
        parts = [encode(params, part, jax.random.fold_in(key, i)) for i, part in enumerate(cut)]
        return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

    key, loss = jax.random.key(3), losses.symmetric_info_nce
    ours = losses_of(in_sub_batches(encode, ROWS), loss)(params, BATCHES, key)
    assert_equal(ours, losses_of(in_parts, loss)(params, BATCHES, key))
    assert abs(float(ours[0]) - float(losses_of(tower()[0], loss)(params, BATCHES, None)[0])) > 1e-3


def test_it_runs_in_a_training_step():
    encode, params = tower()
    split = in_sub_batches(encode, ROWS)

    def loss_fn(params, batch, key):
        vectors = split(params["tower"], batch, key)
        return losses.sigmoid_loss(vectors["left"], vectors["right"], params["scale"], params["bias"]), {}

    trainable = {"tower": params, "scale": jnp.float32(2.0), "bias": jnp.float32(-2.0)}
    optimizer = adam(1e-2)
    step, state = train_step(loss_fn, optimizer, donate=False), new_state(trainable, optimizer, jax.random.key(0))
    seen = []
    for _ in range(5):
        state, metrics = step(state, None, BATCHES)
        seen.append(float(metrics["loss"]))
    assert int(state.skipped) == 0 and seen[-1] < seen[0]


def test_it_runs_on_each_device():
    encode, params = tower()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    split, data = in_sub_batches(encode, 2), jax.P("data")

    def shard(params, batch):
        params = jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), params)
        vectors = split(params, batch, None)
        loss = losses.chunked_info_nce(vectors["left"], vectors["right"], jnp.float32(2.0), axis_name="data")
        return jax.lax.pmean(loss, "data")

    mapped = jax.shard_map(shard, mesh=mesh, in_specs=(jax.P(), data), out_specs=jax.P())
    batch = inputs(16)
    expected = losses_of(encode, losses.symmetric_info_nce)(params, batch, None)
    assert_equal(quick(jax.value_and_grad(mapped))(params, batch), expected)


def _temporary_bytes(encode, spec, batch):
    contrast = functools.partial(losses.chunked_info_nce, tile_rows=64, kept_bytes=0)

    def loss(params, batch):
        vectors = encode(params, batch, None)
        return contrast(vectors["left"], vectors["right"], jnp.float32(2.0))

    step = compile_step(jax.value_and_grad(loss))
    side = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
    step.compile(module.abstract(spec), {"left": side, "right": side})
    assert step.memory is not None
    return step.memory["temporary"]


@pytest.mark.slow
def test_a_batch_of_4096_takes_the_memory_of_one_sub_batch_and_the_embeddings():
    encoder = vit(VitConfig(image_size=32, patch=4, width=64, layers=2, heads=2, mlp_width=128), FLOAT32)

    def encode(params, inputs, key):
        return {name: encoder.module.apply(params, {"pixels": x}).embedding for name, x in inputs.items()}

    rows, batch, width = 64, 4096, 64
    one = _temporary_bytes(encode, encoder.module.spec, rows)
    embeddings = 2 * batch * width * 4
    whole = _temporary_bytes(in_sub_batches(encode, rows), encoder.module.spec, batch)
    assert whole <= 1.3 * (one + embeddings), (one, embeddings, whole)
    assert embeddings < one / 4, "the encoder should be what fills memory"


@pytest.mark.parametrize(("rows", "words"), [(0, "at least 1"), (5, "a divisor of the batch size")])
def test_bad_sizes(rows, words):
    encode, params = tower()
    with pytest.raises(ConfigError, match=words):
        in_sub_batches(encode, rows)(params, BATCHES, None)
