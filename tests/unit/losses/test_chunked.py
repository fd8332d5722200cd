"""Losses in tiles against the dense ones: value, gradient, memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import losses
from erel_jax.errors import ConfigError
from erel_jax.sharding import compile_step

BATCH, WIDTH = 19, 6
GROUP = np.random.default_rng(3).integers(-1, 7, BATCH).astype(np.int32)
CONTRAST = partial(losses.chunked_info_nce, group=GROUP)
SIGMOID = partial(losses.chunked_sigmoid_loss, bias=jnp.float32(-1.5), group=GROUP)
FORMS = {
    "plain": (losses.chunked_info_nce, losses.symmetric_info_nce),
    "left_out": (CONTRAST, partial(losses.symmetric_info_nce, group=GROUP)),
    "one_way": (partial(CONTRAST, symmetric=False), partial(losses.info_nce, group=GROUP)),
    "positive": (
        partial(CONTRAST, same_group="positive"),
        partial(losses.symmetric_multi_positive_info_nce, group=GROUP),
    ),
    "positive_one_way": (
        partial(CONTRAST, same_group="positive", symmetric=False),
        partial(losses.multi_positive_info_nce, group=GROUP),
    ),
    "sigmoid": (SIGMOID, partial(losses.sigmoid_loss, bias=jnp.float32(-1.5), group=GROUP)),
    "sigmoid_positive": (
        partial(SIGMOID, same_group="positive"),
        partial(losses.multi_positive_sigmoid_loss, bias=jnp.float32(-1.5), group=GROUP),
    ),
}


QUICK = {"xla_backend_optimization_level": 0}


def _with_gradients(loss):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), compiler_options=QUICK)


def _assert_equal(ours, theirs):
    """1e-6 of the largest entry: tiles add up in another order, so an entry near zero has no relative precision."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * float(np.abs(b).max()))


CUTS = [(name, 4, kept) for kept, name in enumerate(FORMS)] + [("left_out", 5, 0), ("sigmoid", 19, 1)]


@pytest.mark.parametrize(("name", "tile_rows", "kept_tiles"), CUTS)
def test_value_and_gradient_are_those_of_the_dense_form(name, tile_rows, kept_tiles):
    kept_bytes = kept_tiles * 4 * tile_rows * BATCH
    queries, items = np.random.default_rng(0).normal(size=(2, BATCH, WIDTH)).astype(np.float32)
    chunked, dense = FORMS[name]
    arguments = (queries, items, jnp.float32(2.0))
    _assert_equal(
        _with_gradients(partial(chunked, tile_rows=tile_rows, kept_bytes=kept_bytes))(*arguments),
        _with_gradients(dense)(*arguments),
    )


def test_the_gradient_by_the_bias():
    queries, items = np.random.default_rng(0).normal(size=(2, BATCH, WIDTH)).astype(np.float32)
    chunked = jax.grad(lambda bias: losses.chunked_sigmoid_loss(queries, items, 2.0, bias, group=GROUP, tile_rows=4))
    dense = jax.grad(lambda bias: losses.sigmoid_loss(queries, items, 2.0, bias, group=GROUP))
    np.testing.assert_allclose(jax.jit(chunked)(-1.5), jax.jit(dense)(-1.5), rtol=1e-6)


def test_sharp_and_shifted_logits_neither_overflow_nor_vanish():
    """At scale 100 opposite pairs have logits of -100, far from those of the rows before them."""
    side = jnp.concatenate([jnp.eye(8), jnp.eye(8)])
    items = jnp.concatenate([jnp.eye(8), -jnp.eye(8)])
    arguments = (side, items, jnp.float32(4.6))
    ours = _with_gradients(partial(losses.chunked_info_nce, tile_rows=4))(*arguments)
    _assert_equal(ours, _with_gradients(losses.symmetric_info_nce)(*arguments))
    assert ours[0] > 40


def _temporary_bytes(loss, batch, width):
    side = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    step = compile_step(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    step.compile(side, side, jax.ShapeDtypeStruct((), jnp.float32))
    assert step.memory is not None
    return step.memory["temporary"]


def test_a_large_batch_takes_a_twentieth_of_the_memory():
    dense = _temporary_bytes(losses.symmetric_info_nce, 32768, 512)
    assert dense >= 32768**2 * 4
    sigmoid = partial(losses.chunked_sigmoid_loss, bias=jnp.float32(-10))
    for loss in (losses.chunked_info_nce, sigmoid):
        assert _temporary_bytes(loss, 32768, 512) <= 0.05 * dense


def test_memory_is_linear_in_the_batch():
    small, large = (_temporary_bytes(losses.chunked_info_nce, batch, 512) for batch in (65536, 131072))
    assert large <= 2.05 * small


def test_bad_options():
    side = jnp.eye(4)
    with pytest.raises(ConfigError, match="at least 1"):
        losses.chunked_info_nce(side, side, 0.0, tile_rows=0)
    with pytest.raises(ConfigError, match="'ring' or 'gather'"):
        losses.chunked_info_nce(side, side, 0.0, exchange="tree")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="'ring' or 'gather'"):
        losses.chunked_sigmoid_loss(side, side, 0.0, 0.0, exchange="tree")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="'left_out' or 'positive'"):
        losses.chunked_info_nce(side, side, 0.0, same_group="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="the same"):
        losses.chunked_info_nce(side, jnp.eye(5), 0.0)
