"""Losses on a batch split over eight devices against the whole batch, and what the ring holds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.sharding import compile_step

BATCH, WIDTH = 16, 5
CONTRAST, SIGMOID = losses.chunked_info_nce, partial(losses.chunked_sigmoid_loss, bias=jnp.float32(-1.0))
FORMS = {
    "symmetric": CONTRAST,
    "one_way": partial(CONTRAST, symmetric=False),
    "positive": partial(CONTRAST, same_group="positive"),
    "sigmoid": SIGMOID,
    "sigmoid_positive": partial(SIGMOID, same_group="positive"),
}


quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _mesh(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))


def _split(loss, devices=8):
    """The mean over devices of each device's part of the loss."""

    def shard(queries, items, scale, group):
        return jax.lax.pmean(loss(queries, items, scale, group=group, axis_name="data"), "data")

    data = jax.P("data")
    return jax.shard_map(shard, mesh=_mesh(devices), in_specs=(data, data, jax.P(), data), out_specs=jax.P())


@pytest.mark.parametrize(
    ("name", "exchange"), [*((name, "ring") for name in FORMS), ("positive", "gather"), ("sigmoid", "gather")]
)
def test_value_and_gradient_are_those_of_the_whole_batch(name, exchange):
    rng = np.random.default_rng(2)
    queries, items = rng.normal(size=(2, BATCH, WIDTH)).astype(np.float32)
    group = rng.integers(0, 6, BATCH).astype(np.int32)
    loss = FORMS[name]

    def whole(queries, items, scale, group):
        return loss(queries, items, scale, group=group)

    arguments = (queries, items, jnp.float32(2.0), group)
    split = _split(partial(loss, exchange=exchange, tile_rows=2))
    found, expected = (quick(jax.value_and_grad(f, (0, 1, 2)))(*arguments) for f in (split, whole))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * float(np.abs(theirs).max()))


@pytest.mark.parametrize("exchange", ["ring", "gather"])
def test_gradients_taken_on_each_device(exchange):
    """A training step may differentiate inside `shard_map`; the devices' gradients then add up to the batch's."""
    rng = np.random.default_rng(4)
    queries, items = rng.normal(size=(2, BATCH, WIDTH)).astype(np.float32)
    loss = partial(losses.chunked_info_nce, exchange=exchange, axis_name="data")

    def shard(queries, items):
        return jax.tree.map(lambda g: g / 8, jax.grad(loss, (0, 1))(queries, items, jnp.float32(2.0)))

    data = jax.P("data")
    mapped = jax.shard_map(shard, mesh=_mesh(8), in_specs=(data, data), out_specs=(data, data))
    expected = quick(jax.grad(losses.symmetric_info_nce, (0, 1)))(queries, items, jnp.float32(2.0))
    for ours, theirs in zip(quick(mapped)(queries, items), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * float(np.abs(theirs).max()))


def _bytes_per_device(loss, devices, rows=256, width=64):
    mesh = _mesh(devices)
    on = partial(jax.sharding.NamedSharding, mesh)
    side = jax.ShapeDtypeStruct((rows * devices, width), jnp.float32, sharding=on(jax.P("data")))
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=on(jax.P()))
    group = jax.ShapeDtypeStruct((rows * devices,), jnp.int32, sharding=on(jax.P("data")))
    step = compile_step(jax.value_and_grad(_split(loss, devices), argnums=(0, 1, 2)))
    step.compile(side, side, scale, group)
    assert step.memory is not None
    return step.memory["temporary"]


@pytest.mark.parametrize("loss", [CONTRAST, SIGMOID], ids=["contrast", "sigmoid"])
def test_the_ring_needs_no_more_memory_with_more_devices(loss):
    """Two devices make one step of the ring, which the compiler unrolls; from there on nothing may grow."""
    two, four, eight = (_bytes_per_device(loss, devices) for devices in (2, 4, 8))
    assert eight <= 1.01 * four <= 1.15 * two
    if loss is CONTRAST:
        assert _bytes_per_device(partial(loss, exchange="gather"), 8) > 2 * eight
