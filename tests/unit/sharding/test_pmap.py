"""The data-parallel step on pmap equals one device."""

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.sharding import pmap_gradient_step, replicate, unreplicate

DEVICES = 4


def loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def update(params, gradients):
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)


def case():
    draw = np.random.default_rng(0)
    batch = {
        "x": jnp.asarray(draw.normal(size=(8, 3)), jnp.float32),
        "y": jnp.asarray(draw.normal(size=8), jnp.float32),
    }
    return {"w": jnp.asarray(draw.normal(size=3), jnp.float32)}, batch


def test_equals_one_device():
    params, batch = case()
    value, gradients = jax.value_and_grad(loss)(params, batch)
    split = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch)
    step = pmap_gradient_step(loss, update)
    after, values = step(replicate(params, DEVICES), split)
    np.testing.assert_allclose(values, np.full(DEVICES, float(value)), rtol=1e-5)
    np.testing.assert_allclose(unreplicate(after)["w"], update(params, gradients)["w"], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(after["w"]), np.tile(np.asarray(after["w"][0]), (DEVICES, 1)))


def test_replicate_and_unreplicate():
    tree = {"a": jnp.arange(3.0), "b": jnp.float32(2.0)}
    copies = replicate(tree, 2)
    assert copies["a"].shape == (2, 3) and copies["b"].shape == (2,)
    jax.tree.map(np.testing.assert_array_equal, unreplicate(copies), tree)
