"""Operation counts: hand-computed programs, XLA's own count, and the pinned behavior of XLA on loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from erel_jax import module, tree
from erel_jax.errors import ConfigError
from erel_jax.layers import (
    BFLOAT16,
    FLOAT32,
    BlockConfig,
    LowRank,
    Quantized,
    block,
    embed_patches,
    embed_tokens,
    first_token,
    run_stack,
    stack_spec,
)
from erel_jax.module import ParamSpec
from erel_jax.profiling.flops import Flops, count_flops, xla_flops

LAYERS = 4
F32 = jnp.float32


def shape(*sizes, dtype=F32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def asked_of_xla(fn, *args):
    """XLA's own number for a program as it stands."""
    return dict(jax.jit(fn).lower(*args).cost_analysis() or {})["flops"]


def bert_like(precision):
    """(spec, inputs, apply) of a small post-norm text stack."""
    config = BlockConfig(width=128, heads=4, mlp_width=512, norm="post")
    spec = {"table": ParamSpec((1000, 128), ("vocab", "embed")), "stack": stack_spec(config, LAYERS)}

    def apply(params, ids):
        mask = (ids > 0)[:, None, None, :]
        x = embed_tokens(params["table"], ids)
        states, _ = run_stack(
            lambda layer, y: block(config, precision, layer, y, mask), params["stack"], x, layers=LAYERS
        )
        return first_token(states)

    return spec, shape(4, 32, dtype=jnp.int32), apply


def vit_like(precision):
    """The same for a pre-norm image stack with a patch embedding and taps."""
    config = BlockConfig(width=128, heads=4, mlp_width=512, norm="pre")
    spec = {"patch": {"kernel": ParamSpec((8 * 8 * 3, 128), (None, "embed"))}, "stack": stack_spec(config, LAYERS)}

    def apply(params, pixels):
        x = embed_patches(params["patch"], pixels, 8, precision)
        _, taps = run_stack(
            lambda layer, y: block(config, precision, layer, y, None),
            params["stack"], x, layers=LAYERS, emit=lambda y: jnp.mean(y, axis=1),
        )  # fmt: skip
        return jnp.sum(taps, axis=0)

    return spec, shape(4, 64, 64, 3), apply


def with_lora(params):
    """Abstract parameters with a rank-4 pair on query and value of every layer."""

    def wrap(kernel):
        layers, inner, outer = kernel.shape
        return LowRank(kernel, shape(layers, inner, 4), shape(layers, 4, outer), 2.0)

    attention = dict(params["stack"]["attention"])
    for name in ("query", "value"):
        attention[name] = {**attention[name], "kernel": wrap(attention[name]["kernel"])}
    return {**params, "stack": {**params["stack"], "attention": attention}}


def training_step(apply, trained, params):
    """(step, arguments): loss and gradients of the chosen part."""
    selected, rest = tree.partition(params, trained)

    def step(selected, rest, inputs):
        return jax.value_and_grad(lambda s: jnp.sum(apply(tree.merge(s, rest), inputs) ** 2))(selected)

    return step, selected, rest


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("stack", [bert_like, vit_like])
def test_forward_agrees_with_xla(stack, precision):
    spec, inputs, apply = stack(precision)
    params = module.abstract(spec)
    assert xla_flops(apply, params, inputs) == pytest.approx(count_flops(apply, params, inputs).total, rel=0.05)


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("stack", [bert_like, vit_like])
@pytest.mark.parametrize("method", ["frozen", "full", "lora"])
def test_gradient_step_agrees_with_xla(stack, precision, method):
    spec, inputs, apply = stack(precision)
    params = {"tower": module.abstract(spec), "head": {"kernel": shape(128, 8)}}
    trained = {"frozen": ["head/.*"], "full": [".*"], "lora": [".*/(a|b)", "head/.*"]}[method]
    if method == "lora":
        params["tower"] = with_lora(params["tower"])
    step, selected, rest = training_step(lambda p, x: apply(p["tower"], x) @ p["head"]["kernel"], trained, params)
    counted = count_flops(step, selected, rest, inputs)
    assert xla_flops(step, selected, rest, inputs) == pytest.approx(counted.total, rel=0.05)
    forward = count_flops(apply, params["tower"], inputs).matmul
    low, high = {"frozen": (1.0, 1.02), "full": (2.8, 3.2), "lora": (1.9, 2.4)}[method]
    assert low <= counted.matmul / forward <= high


def test_quantized_stack_agrees_with_xla():
    spec, inputs, apply = bert_like(BFLOAT16)
    params = module.abstract(spec)
    up = params["stack"]["mlp"]["up"]
    values = jax.ShapeDtypeStruct(up["kernel"].shape, jnp.int8)
    up["kernel"] = Quantized(values, shape(LAYERS, 512))
    assert xla_flops(apply, params, inputs) == pytest.approx(count_flops(apply, params, inputs).total, rel=0.05)


def test_xla_counts_a_loop_body_once():
    """Pinned: if this fails, JAX has mended it and `xla_flops` need not unroll any more."""

    def loop(length, unroll=1):
        return lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=length, unroll=unroll)[0]

    once = 2.0 * 64**3
    flops = [asked_of_xla(loop(n), shape(64, 64)) for n in (1, 10, 100)]
    assert flops == pytest.approx([once] * 3, rel=0.01)
    assert asked_of_xla(loop(10, 10), shape(64, 64)) == pytest.approx(10 * once, rel=0.01)
    assert count_flops(loop(10), shape(64, 64)).matmul == 10 * once


def test_rolled_loop_is_refused_by_xla_flops():
    with pytest.raises(ConfigError, match="keeps 1 loops"):
        xla_flops(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, length=3)[0], shape(4, 4))


def test_hand_counted_operations():
    x, w = shape(8, 16), shape(16, 4)
    assert count_flops(lambda x, w: x @ w, x, w) == Flops(matmul=2 * 8 * 16 * 4)
    assert count_flops(lambda x, w: jnp.exp(x) * 2.0 + 1.0, x, w) == Flops(elementwise=256, transcendental=128)
    assert count_flops(lambda x, w: jnp.sum(x, axis=0), x, w) == Flops(elementwise=128 - 16)
    grouped = count_flops(lambda a, b: jnp.einsum("bhlk,bhtk->bhlt", a, b), shape(2, 3, 5, 7), shape(2, 3, 6, 7))
    assert grouped.matmul == 2 * (2 * 3 * 5 * 6) * 7
    integers = count_flops(
        lambda a: jax.lax.dot(a, a, preferred_element_type=jnp.int32), jax.ShapeDtypeStruct((4, 4), jnp.int8)
    )
    assert integers.matmul == 2 * 4**3


def test_convolution_is_a_matrix_product():
    conv = lambda x, w: jax.lax.conv(x, w, (1, 1), "VALID")  # noqa: E731
    flops = count_flops(conv, shape(2, 3, 16, 16), shape(8, 3, 4, 4))
    assert flops.matmul == 2 * (2 * 8 * 13 * 13) * (3 * 4 * 4)


def test_dead_code_is_not_counted():
    def wasteful(x):
        _ = x @ x
        inner = jax.jit(lambda y: (y @ y, y + 1.0))
        return inner(x)[1]

    assert count_flops(wasteful, shape(8, 8)) == Flops(elementwise=64)

    def dead_carry(x):
        (first, _), _ = jax.lax.scan(lambda c, _: ((c[0] + 1.0, c[1] @ c[1]), None), (x, x), length=5)
        return first

    assert count_flops(dead_carry, shape(8, 8)) == Flops(elementwise=5 * 64)

    def late_carry(x):
        """The first carry is needed only through the second."""
        (_, second), _ = jax.lax.scan(lambda c, _: ((c[0] @ c[0], c[1] + c[0]), None), (x, x), length=5)
        return second

    assert count_flops(late_carry, shape(8, 8)).matmul == 5 * 2 * 8**3


def test_control_flow():
    x = shape(8, 8)
    product = 2.0 * 8**3
    branch = lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y, x)  # noqa: E731
    assert count_flops(branch, x).matmul == 2 * product
    loop = lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ c, x)  # noqa: E731
    with pytest.raises(ConfigError, match="while_trips"):
        count_flops(loop, x)
    assert count_flops(loop, x, while_trips=7).matmul == 7 * product
    assert count_flops(lambda x: jax.lax.fori_loop(0, 5, lambda _, c: c @ c, x), x).matmul == 5 * product


def test_rematerialized_products_count_twice():
    def loss(remat):
        step = lambda x: jnp.sin(x @ x) @ x  # noqa: E731
        return jax.value_and_grad(lambda x: jnp.sum((jax.checkpoint(step) if remat else step)(x)))

    product = 2.0 * 16**3
    assert count_flops(loss(False), shape(16, 16)).matmul == 6 * product
    assert count_flops(loss(True), shape(16, 16)).matmul == 7 * product


def test_custom_derivatives_are_entered():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, dy: (dy @ x.T @ x,))
    assert count_flops(square, shape(4, 4)).matmul == 2 * 4**3
    assert count_flops(jax.grad(lambda x: jnp.sum(square(x))), shape(4, 4)).matmul == 2 * 2 * 4**3


def test_shard_map_counts_every_device():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(4), ("data",))
    split = jax.shard_map(
        lambda x, w: jax.lax.psum(jnp.sum(x @ w), "data"),
        mesh=mesh, in_specs=(PartitionSpec("data"), PartitionSpec()), out_specs=PartitionSpec(),
    )  # fmt: skip
    assert count_flops(split, shape(8, 16), shape(16, 4)).matmul == 2 * 8 * 16 * 4


def test_operations_in_no_table_are_asked_of_xla():
    normal = count_flops(lambda: jax.random.normal(jax.random.key(0), (64, 64)))
    xla = asked_of_xla(lambda: jax.random.normal(jax.random.key(0), (64, 64)))
    assert normal.total == pytest.approx(xla, rel=0.05)
    assert count_flops(jax.lax.erfc, shape(4, 4)).elementwise > 4 * 4
