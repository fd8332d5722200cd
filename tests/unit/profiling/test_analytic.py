"""Closed forms against the counted program and against published figures."""

import jax
import jax.numpy as jnp
import pytest

from erel_jax import module, tree
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, BlockConfig, Bottleneck, LowRank, block, embed_patches, run_stack, stack_spec
from erel_jax.module import ParamSpec
from erel_jax.profiling.analytic import bert_flops, training_flops, transformer_flops, vit_flops
from erel_jax.profiling.flops import count_flops

SIZE = {"layers": 3, "width": 192, "mlp_width": 768}


def stack_apply(config, layers):
    def apply(params, x):
        return run_stack(lambda p, y: block(config, FLOAT32, p, y, None), params, x, layers=layers)[0]

    return apply


def small():
    config = BlockConfig(width=192, heads=3, mlp_width=768)
    return (
        module.abstract(stack_spec(config, 3)),
        jax.ShapeDtypeStruct((4, 24, 192), jnp.float32),
        stack_apply(config, 3),
    )


def test_vit_b16_has_its_published_size():
    assert vit_flops(layers=12, width=768, mlp_width=3072, image_size=224, patch=16) / 2e9 == pytest.approx(
        17.56, abs=0.05
    )


def test_vit_b16_agrees_with_the_counted_program():
    config = BlockConfig(width=768, heads=12, mlp_width=3072, eps=1e-12)
    spec = {"patch": {"kernel": ParamSpec((768, 768), (None, "embed"))}, "stack": stack_spec(config, 12)}
    run = stack_apply(config, 12)

    def apply(params, pixels):
        x = embed_patches(params["patch"], pixels, 16, FLOAT32)
        return run(params["stack"], jnp.concatenate([x[:, :1], x], axis=1))

    counted = count_flops(apply, module.abstract(spec), jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32))
    closed = vit_flops(layers=12, width=768, mlp_width=3072, image_size=224, patch=16, batch=2)
    assert closed == counted.matmul
    assert closed == pytest.approx(counted.total, rel=0.05)


def test_bert_base_by_hand():
    # Per token and layer: 12 D² weights, 2 L D products of activations; D = 768, L = 128.
    by_hand = 2 * 8 * 128 * 12 * (12 * 768**2 + 2 * 128 * 768)
    assert bert_flops(layers=12, width=768, mlp_width=3072, length=128, batch=8) == by_hand
    assert (
        bert_flops(layers=12, width=768, mlp_width=3072, length=128, batch=8, pooler=True) == by_hand + 2 * 8 * 768**2
    )


def test_forward_equals_the_counted_products():
    params, x, apply = small()
    assert count_flops(apply, params, x).matmul == transformer_flops(tokens=24, batch=4, **SIZE)


@pytest.mark.parametrize(
    ("trained", "patterns"),
    [("full", [".*"]), ("bias", [".*/bias"]), ("lora", [".*/(a|b)"]), ("bottleneck", [".*/(up|down)"])],
)
def test_training_step_agrees_with_the_counted_program(trained, patterns):
    params, x, apply = small()
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    if trained == "lora":
        for name in ("query", "value"):
            projection = params["attention"][name]
            projection["kernel"] = LowRank(projection["kernel"], shape(3, 192, 8), shape(3, 8, 192), 1.0)
    if trained == "bottleneck":
        for projection in (params["attention"]["output"], params["mlp"]["down"]):
            projection["kernel"] = Bottleneck(
                projection["kernel"], shape(3, 192, 8), shape(3, 8), shape(3, 8, 192), shape(3, 192)
            )
    selected, rest = tree.partition(params, patterns)

    def step(selected, rest, x):
        # The input's own gradient is wanted too: an embedding below the stack trains or passes it on.
        return jax.value_and_grad(lambda s, x: jnp.sum(apply(tree.merge(s, rest), x) ** 2), argnums=(0, 1))(selected, x)

    counted = count_flops(step, selected, rest, x)
    closed = training_flops(tokens=24, batch=4, trained=trained, rank=8, **SIZE)
    assert closed == pytest.approx(counted.matmul, rel=0.01)
    assert closed == pytest.approx(counted.total, rel=0.05)


def test_frozen_tower_costs_its_forward_pass():
    assert training_flops(tokens=24, trained="none", **SIZE) == transformer_flops(tokens=24, **SIZE)


def test_unknown_method_is_named():
    with pytest.raises(ConfigError, match="lora"):
        training_flops(tokens=24, trained="lroa", **SIZE)  # type: ignore[arg-type]
