"""Encoders inside `shard_map`: gradients of replicated parameters are those of one device with the whole batch."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses, tree
from erel_jax.encoders import (
    BertConfig,
    ClipTextConfig,
    ClipVisionConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    VitConfig,
    bert,
    clip_text,
    clip_vision,
    siglip_text,
    siglip_vision,
    vit,
)
from erel_jax.errors import ConfigError
from erel_jax.layers import BFLOAT16, FLOAT32, dense
from erel_jax.sharding import make_mesh
from erel_jax.training import in_sub_batches, over_devices

BATCH, WIDTH, OUT = 32, 6, 5
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def checked(loss):
    """The loss of the whole batch over eight devices, with JAX's check of what varies between them."""

    def shard(params, batch):
        return jax.lax.pmean(loss(params, batch, "data"), "data")

    return jax.shard_map(shard, mesh=make_mesh(8), in_specs=(jax.P(), jax.P("data")), out_specs=jax.P())


@pytest.mark.parametrize(("exchange", "precision"), [("ring", FLOAT32), ("gather", FLOAT32), ("ring", BFLOAT16)])
def test_kernels_and_biases_under_the_chunked_loss(exchange, precision):
    draw = np.random.default_rng(0)
    batch = {name: draw.normal(size=(BATCH, WIDTH)).astype(np.float32) for name in ("text", "image")}
    kernel, bias = draw.normal(size=(WIDTH, OUT)).astype(np.float32), draw.normal(size=OUT).astype(np.float32)
    params = {"kernel": kernel, "bias": bias, "log_scale": jnp.float32(1.0)}

    def loss(params, batch, axis_name):
        text, image = (dense(batch[name], params["kernel"], params["bias"], precision) for name in ("text", "image"))
        options = {"exchange": exchange, "tile_rows": 2, "axis_name": axis_name}
        return losses.chunked_info_nce(text, image, params["log_scale"], **options)

    found = quick(jax.value_and_grad(checked(loss)))(params, batch)
    expected = quick(jax.value_and_grad(partial(loss, axis_name=None)))(params, batch)
    assert np.abs(expected[1]["kernel"]).max() > 1e-3
    tolerance = 1e-5 if precision is FLOAT32 else 2e-2
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * float(np.abs(theirs).max()))


TOWERS = {
    "clip": (clip_text(ClipTextConfig.tiny()), clip_vision(ClipVisionConfig.tiny())),
    "bert_vit": (bert(replace(BertConfig.tiny(), layers=1)), vit(replace(VitConfig.tiny(), layers=1))),
    "siglip": (siglip_text(SiglipTextConfig.tiny()), siglip_vision(SiglipVisionConfig.tiny())),
}


def inputs_of(text, image, rows):
    draw = np.random.default_rng(1)
    size = image.config.image_size
    return {
        "text": {
            "ids": draw.integers(4, text.config.vocabulary, (rows, 8), dtype=np.int32),
            "mask": np.arange(8)[None] < draw.integers(3, 9, (rows, 1)),
        },
        "image": {"pixels": draw.normal(size=(rows, size, size, 3)).astype(np.float32)},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_whole_towers_in_sub_batches(name):
    text, image = TOWERS[name]
    spec = {"text": text.module.spec, "image": image.module.spec}
    draw = np.random.default_rng(0)
    # Scales near 1: where they are near 0, rounding alone separates two orders of summation.
    params = tree.map_with_path(
        lambda path, leaf: np.float32(path.endswith("scale")) + draw.normal(0, 0.2, leaf.shape).astype(np.float32), spec
    )
    width = min(text.embedding_width, image.embedding_width)

    def encode(params, inputs, key):
        sides = {"text": text, "image": image}
        return {m: e.module.apply(params[m], inputs[m]).embedding[:, :width] for m, e in sides.items()}

    def loss(params, batch, key, encode, axis_name=None):
        vectors = encode(params, batch, None)
        return losses.chunked_info_nce(vectors["text"], vectors["image"], 1.0, axis_name=axis_name), {}

    batch, key = inputs_of(text, image, 16), jax.random.key(0)
    split = over_devices(partial(loss, encode=in_sub_batches(encode, 2), axis_name="data"), make_mesh(4))
    (found, _), ours = quick(jax.value_and_grad(split, has_aux=True))(params, batch, key)
    (expected, _), theirs = quick(jax.value_and_grad(partial(loss, encode=encode), has_aux=True))(params, batch, key)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    assert largest > 1e-4
    for path, leaf in tree.paths(theirs).items():
        np.testing.assert_allclose(tree.paths(ours)[path], leaf, rtol=0, atol=3e-5 * largest, err_msg=path)


def test_sub_batches_of_split_rows_give_the_gradients_of_the_whole_batch():
    draw = np.random.default_rng(0)
    batch = {name: draw.normal(size=(BATCH, WIDTH)).astype(np.float32) for name in ("text", "image")}
    params = {"kernel": draw.normal(size=(WIDTH, OUT)).astype(np.float32), "log_scale": jnp.float32(1.0)}

    def encode(params, inputs, key):
        return {name: jnp.tanh(dense(rows, params["kernel"])) for name, rows in inputs.items()}

    def loss(params, batch, key, encode, axis_name=None):
        vectors = encode(params, batch, None)
        scale = params["log_scale"]
        return losses.chunked_info_nce(vectors["text"], vectors["image"], scale, axis_name=axis_name), {}

    split = over_devices(partial(loss, encode=in_sub_batches(encode, 2), axis_name="data"), make_mesh(8))
    key = jax.random.key(0)
    (found, _), ours = quick(jax.value_and_grad(split, has_aux=True))(params, batch, key)
    (expected, _), theirs = quick(jax.value_and_grad(partial(loss, encode=encode), has_aux=True))(params, batch, key)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name in params:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5 * float(np.abs(theirs[name]).max()))


def test_each_device_draws_from_its_own_key():
    def loss(params, batch, key):
        drawn = jax.random.uniform(key)
        return drawn * params, {"spread": jnp.square(drawn - jax.lax.pmean(drawn, "data"))}

    _, aux = jax.jit(over_devices(loss, make_mesh(8)))(jnp.float32(1), jnp.zeros(8), jax.random.key(0))
    assert aux["spread"] > 1e-3


def test_unfitting_batches_and_meshes_are_refused():
    loss = over_devices(lambda params, batch, key: (jnp.float32(0), {}), make_mesh(8))
    with pytest.raises(ConfigError, match="batch of 12 rows for 8 devices"):
        loss({}, jnp.zeros(12), jax.random.key(0))
    with pytest.raises(ConfigError, match="expected 'rows'"):
        over_devices(loss, make_mesh(8), "rows")
