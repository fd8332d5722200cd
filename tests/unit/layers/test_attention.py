"""Attention against flax.linen and at its edges."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from erel_jax import module
from erel_jax.errors import ConfigError
from erel_jax.layers import BFLOAT16, FLOAT32, BlockConfig, attend, attention_spec, self_attention
from erel_jax.sharding import make_mesh

B, L, D, H = 2, 5, 12, 3


def case(seed=0):
    draw = np.random.default_rng(seed)
    params = jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), jnp.float32) / 3, attention_spec(D))
    return params, jnp.asarray(draw.normal(size=(B, L, D)), jnp.float32)


def linen_params(params):
    def inward(p):
        return {"kernel": p["kernel"].reshape(D, H, D // H), "bias": p["bias"].reshape(H, D // H)}

    out = {"kernel": params["output"]["kernel"].reshape(H, D // H, D), "bias": params["output"]["bias"]}
    return {**{name: inward(params[name]) for name in ("query", "key", "value")}, "out": out}


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_linen(masked):
    params, x = case()
    mask = (jnp.arange(L)[None] < jnp.array([[5], [3]]))[:, None, None, :] if masked else None
    linen = nn.MultiHeadDotProductAttention(num_heads=H)

    def ours(params, x):
        return self_attention(params, x, mask, heads=H, precision=FLOAT32)

    def theirs(params, x):
        return linen.apply({"params": linen_params(params)}, x, mask=mask)

    weights = jax.random.normal(jax.random.key(9), (B, L, D))

    @jax.jit
    def both(params, x):
        outputs = []
        for fn in (ours, theirs):
            y, pull = jax.vjp(fn, params, x)
            outputs.append((y, pull(weights)))
        return outputs

    mine, other = both(params, x)
    np.testing.assert_allclose(mine[0], other[0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), mine[1], other[1])


def test_padding_never_reaches_a_real_token():
    params, x = case()
    mask = (jnp.arange(L) < 3)[None, None, None, :]
    one = self_attention(params, x, mask, heads=H, precision=FLOAT32)
    other = self_attention(params, x.at[:, 3:].set(1e4), mask, heads=H, precision=FLOAT32)
    np.testing.assert_array_equal(one[:, :3], other[:, :3])


def test_a_query_without_keys_gets_zero_and_finite_gradients():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 2, 1, 4)) for i in range(3))
    mask = jnp.array([[True, True], [False, False]])[None, None]
    np.testing.assert_array_equal(attend(q, k, v, mask, FLOAT32)[0, 1], 0.0)
    gradients = jax.grad(lambda q, k, v: jnp.sum(attend(q, k, v, mask, FLOAT32)), argnums=(0, 1, 2))(q, k, v)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_hand_computed_attention():
    q = jnp.array([0.0, 0.0]).reshape(1, 1, 1, 2)
    k = jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    v = jnp.array([[2.0, 4.0], [6.0, 0.0]]).reshape(1, 2, 1, 2)
    np.testing.assert_allclose(attend(q, k, v, None, FLOAT32).reshape(2), [4.0, 2.0])


def test_bfloat16_stays_near_float32():
    params, x = case()
    wide = self_attention(params, x, None, heads=H, precision=FLOAT32)
    half = self_attention(params, x, None, heads=H, precision=BFLOAT16)
    assert half.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(wide - half))) < 0.05 * float(jnp.max(jnp.abs(wide)))


def test_dropout_of_probabilities_needs_a_key():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 64, 1, 4)) for i in range(3))
    plain = attend(q, k, v, None, FLOAT32, dropout_rate=0.5)
    np.testing.assert_array_equal(plain, attend(q, k, v, None, FLOAT32))
    dropped = attend(q, k, v, None, FLOAT32, dropout_rate=0.5, dropout_key=jax.random.key(0))
    assert not np.allclose(plain, dropped)


def by_definition(q, k, v, mask, kept=None, rate=0.0):
    """Attention written out, differentiated by JAX."""
    scores = jnp.einsum("blhk,bthk->bhlt", q, k) / np.sqrt(q.shape[-1])
    probabilities = jax.nn.softmax(scores, axis=-1, where=jnp.broadcast_to(mask, scores.shape))
    if kept is not None:
        probabilities = jnp.where(kept, probabilities / (1 - rate), 0.0)
    return jnp.einsum("bhlt,bthk->blhk", probabilities, v)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize(("precision", "tolerance"), [(FLOAT32, 2e-6), (BFLOAT16, 2e-2)], ids=["float32", "bfloat16"])
def test_own_backward_pass_equals_the_derivative_of_the_definition(precision, tolerance, rate):
    keys = jax.random.split(jax.random.key(3), 4)
    q, weights = (jax.random.normal(key, (2, 7, 3, 8)) for key in keys[:2])
    k, v = (jax.random.normal(key, (2, 9, 3, 8)) for key in keys[2:])
    mask = jnp.arange(9)[None, None, None, :] < jnp.array([9, 4])[:, None, None, None]
    kept = jax.random.bernoulli(jax.random.key(5), 1 - rate, (2, 3, 7, 9))

    def ours(q, k, v):
        out = attend(q, k, v, mask, precision, dropout_rate=rate, dropout_key=jax.random.key(5))
        return jnp.sum(weights * out)

    def theirs(q, k, v):
        return jnp.sum(weights * by_definition(q, k, v, mask, kept, rate))

    (value, gradients), (expected, others) = (jax.value_and_grad(f, argnums=(0, 1, 2))(q, k, v) for f in (ours, theirs))
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=10 * tolerance)
    for mine, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(mine, other, atol=tolerance * float(jnp.max(jnp.abs(other))))


@pytest.mark.parametrize("sharded", [False, True])
def test_heads_split_over_a_mesh_are_not_gathered(sharded):
    """With heads on the mesh's model axis no collective is needed; joined to the batch they would be gathered."""
    mesh = make_mesh(data=2, model=4)
    place = NamedSharding(mesh, PartitionSpec("data", None, "model", None) if sharded else PartitionSpec())
    q = jax.ShapeDtypeStruct((4, 6, 8, 16), jnp.float32, sharding=place)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda q: attend(q, q, q, None, FLOAT32), out_shardings=place).lower(q).compile()
    text = compiled.as_text() or ""
    assert "dot" in text
    assert not [name for name in ("all-gather", "all-to-all", "collective-permute") if name in text]


def test_projections_without_bias():
    spec = attention_spec(D, bias=False)
    assert module.count(spec) == 4 * D * D
    out = self_attention(module.init(jax.random.key(0), spec), case()[1], None, heads=H, precision=FLOAT32)
    assert out.shape == (B, L, D)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="width 12 is not a multiple of heads 5"):
        BlockConfig(width=12, heads=5, mlp_width=4)


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("biased", [False, True])
def test_scale_bias_and_cap_of_scores_against_the_definition(cap, biased):
    draw = np.random.default_rng(3)
    query, key, value = (jnp.asarray(draw.normal(size=(B, L, H, 4)), jnp.float32) for _ in range(3))
    bias = jnp.asarray(draw.normal(size=(1, H, L, L)), jnp.float32) if biased else None
    mask = jnp.tri(L, dtype=bool)[None, None]

    def ours(query, key, value, bias):
        return attend(query, key, value, mask, FLOAT32, scale=0.7, score_bias=bias, score_cap=cap)

    def definition(query, key, value, bias):
        scores = jnp.einsum("blhk,bthk->bhlt", query, key) * 0.7
        scores = scores if cap is None else cap * jnp.tanh(scores / cap)
        scores = scores if bias is None else scores + jnp.broadcast_to(bias, scores.shape)
        weights = jax.nn.softmax(jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf), axis=-1)
        return jnp.einsum("bhlt,bthk->blhk", weights, value)

    cotangent = jax.random.normal(jax.random.key(4), value.shape)
    for mine, theirs in zip(
        *(
            jax.tree.leaves((y, pull(cotangent)))
            for y, pull in (jax.vjp(f, query, key, value, bias) for f in (ours, definition))
        ),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("served", [1, 2])
@pytest.mark.parametrize("mesh", [None, (4, 2)], ids=["one", "split"])
def test_query_heads_share_key_heads_without_copies_of_them(served, mesh):
    """Values and gradients are those of repeated key heads, and no array of repeated keys is made."""
    keys = jax.random.split(jax.random.key(7), 4)
    q, weights = (jax.random.normal(key, (4, 7, 4, 8)) for key in keys[:2])
    k, v = (jax.random.normal(key, (4, 9, served, 8)) for key in keys[2:])
    mask = jnp.arange(9)[None, None, None, :] < jnp.array([9, 4, 1, 0])[:, None, None, None]
    bias = jax.random.normal(jax.random.key(8), (1, 4, 7, 9))

    def loss(attention, q, k, v, bias):
        return jnp.sum(weights * attention(q, k, v, bias))

    def shared(q, k, v, bias):
        return attend(q, k, v, mask, FLOAT32, score_bias=bias, score_cap=5.0)

    def repeated(q, k, v, bias):
        return shared(q, jnp.repeat(k, 4 // served, axis=2), jnp.repeat(v, 4 // served, axis=2), bias)

    expected = jax.jit(jax.value_and_grad(partial(loss, repeated), argnums=(0, 1, 2, 3)))(q, k, v, bias)
    step = jax.jit(jax.value_and_grad(partial(loss, shared), argnums=(0, 1, 2, 3)))
    if mesh is None:
        got = step(q, k, v, bias)
    else:
        devices = make_mesh(*mesh)
        heads = NamedSharding(devices, PartitionSpec("data", None, "model"))
        split = heads if served == 2 else NamedSharding(devices, PartitionSpec("data"))
        with jax.set_mesh(devices):
            got = step(jax.device_put(q, heads), *(jax.device_put(x, split) for x in (k, v)), bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), jax.device_get(got), expected)
    assert "[4,9,4,8]" not in str(jax.make_jaxpr(shared)(q, k, v, bias))


def test_key_heads_that_do_not_divide_the_query_heads_are_refused():
    q, k = jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 2, 2, 4))
    with pytest.raises(ConfigError, match="3 query heads for 2 key heads"):
        attend(q, k, k, None, FLOAT32)
