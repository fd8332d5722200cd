"""Students cut out of their teachers: the right channels, heads and layers, in every encoder family."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import distillation, module, tree
from erel_jax.distillation import chosen_layers, heads_of, inherit, inherited_student, quarter_student, student_config
from erel_jax.encoders import (
    ENCODERS,
    BertConfig,
    ClipVisionConfig,
    Dinov2Config,
    LlamaConfig,
    VitConfig,
    bert,
    decoder,
)
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError


def numbered(encoder):
    """Parameters whose values say where they stand."""
    return jax.tree.map(lambda s: np.arange(math.prod(s.shape), dtype=np.float32).reshape(s.shape), encoder.module.spec)


def drawn(encoder, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: draw.normal(0, 0.3, s.shape).astype(np.float32), encoder.module.spec)


def tiny(name):
    family = ENCODERS[name]
    return family.build(family.config.tiny())


def embedding(encoder, params):
    inputs = example_inputs(encoder, rows=2, length=7)
    return np.asarray(jax.jit(lambda p: encoder.module.apply(p, inputs).embedding)(params))


def halves(name):
    """(teacher, its numbered leaves, student, the student's leaves by path) of half the heads and layers 0 and 2."""
    teacher = tiny(name)
    student, params = inherited_student(teacher, numbered(teacher), width_fraction=0.5, layers=(0, 2))
    return tree.paths(numbered(teacher)), {path: np.asarray(leaf) for path, leaf in tree.paths(params).items()}, student


@pytest.mark.parametrize("name", ENCODERS)
def test_every_family_has_students(name):
    before, after, student = halves(name)
    wanted = {path: leaf.shape for path, leaf in tree.paths(student.module.spec).items()}
    assert {path: leaf.shape for path, leaf in after.items()} == wanted
    for path, leaf in after.items():
        assert np.isin(leaf, before[path]).all() and np.unique(leaf).size == leaf.size, path
        # ModernBERT's first layer has no attention norm.
        assert leaf.flat[0] == (16 if path == "attention_norm/scale" else 0), path
    inputs = jax.tree.map(jnp.asarray, example_inputs(student, rows=2, length=7))
    result = jax.eval_shape(
        lambda p, x: student.module.apply(p, x).embedding, module.abstract(student.module.spec), inputs
    )
    assert result.shape == (2, student.embedding_width)


@pytest.mark.parametrize("name", ENCODERS)
def test_axes_named_heads_and_mlp_hold_what_the_config_says(name):
    """A family with a fused layer of a new name would be cut in the wrong places; this notices it."""
    encoder = tiny(name)
    heads, mlp_width = heads_of(encoder.config), encoder.config.mlp_width
    sizes = {"heads": {heads.heads * heads.width, heads.kv_heads * heads.width}, "mlp": {mlp_width}}
    for path, leaf in tree.paths(encoder.module.spec).items():
        parts = {"qkv": 3, "input": 3, "gate_up": 2}.get(path.split("/")[-2], 1)
        for axis, size in zip(leaf.axes, leaf.shape, strict=True):
            assert axis not in sizes or size / parts in sizes[axis], path


def test_plain_layers_by_hand():
    before, after, _ = halves("vit")
    query = "layers/attention/query/kernel"
    np.testing.assert_array_equal(after[query], before[query][[0, 2], :8, :8])
    np.testing.assert_array_equal(after["layers/mlp/up/kernel"], before["layers/mlp/up/kernel"][[0, 2], :8, :16])
    np.testing.assert_array_equal(after["layers/mlp/down/bias"], before["layers/mlp/down/bias"][[0, 2], :8])
    np.testing.assert_array_equal(after["embeddings/patch/kernel"], before["embeddings/patch/kernel"][:, :8])
    np.testing.assert_array_equal(after["embeddings/position/table"], before["embeddings/position/table"][:, :8])
    np.testing.assert_array_equal(after["final_norm/scale"], before["final_norm/scale"][:8])


def test_a_projection_keeps_the_shared_space():
    before, after, student = halves("clip_text_model")
    np.testing.assert_array_equal(after["projection/kernel"], before["projection/kernel"][:8])
    assert student.embedding_width == 12


def test_fused_axes_are_cut_part_by_part():
    before, after, _ = halves("gpt2")
    fused = before["layers/attention/qkv/kernel"].reshape(3, 16, 3, 16)[[0, 2], :8, :, :8]
    np.testing.assert_array_equal(after["layers/attention/qkv/kernel"], fused.reshape(2, 8, 24))
    fused = before["layers/attention/qkv/bias"].reshape(3, 3, 16)[[0, 2], :, :8]
    np.testing.assert_array_equal(after["layers/attention/qkv/bias"], fused.reshape(2, 24))
    before, after, _ = halves("modernbert")
    gate_up = before["layers/mlp/gate_up/kernel"].reshape(3, 16, 2, 24)[[0, 2], :8, :, :12]
    np.testing.assert_array_equal(after["layers/mlp/gate_up/kernel"], gate_up.reshape(2, 8, 24))
    np.testing.assert_array_equal(after["attention_norm/scale"], before["attention_norm/scale"][[1], :8])
    before, after, _ = halves("siglip_vision_model")
    joint = before["head/attention/input/kernel"].reshape(16, 3, 16)[:8, :, :8]
    np.testing.assert_array_equal(after["head/attention/input/kernel"], joint.reshape(8, 24))
    before, after, _ = halves("whisper")
    taps = before["embeddings/second/kernel"].reshape(3, 16, 16)[:, :8, :8]
    np.testing.assert_array_equal(after["embeddings/second/kernel"], taps.reshape(24, 8))
    np.testing.assert_array_equal(after["embeddings/first/kernel"], before["embeddings/first/kernel"][:, :8])


def test_heads_come_before_channels_of_heads():
    before, after, student = halves("qwen2")
    assert (student.config.heads, student.config.kv_heads, student.config.head_width) == (2, 1, 4)
    query, key = "layers/attention/query/kernel", "layers/attention/key/bias"
    np.testing.assert_array_equal(after[query], before[query][[0, 2], :8, :8])
    np.testing.assert_array_equal(after[key], before[key][[0, 2], :4])
    narrow = dataclasses.replace(LlamaConfig.tiny(), head_width=4, heads=2, kv_heads=1)
    teacher, target = tiny("llama"), decoder(narrow)
    layouts = heads_of(teacher.config), heads_of(narrow)
    cut = tree.paths(inherit(numbered(teacher), teacher.module.spec, target.module.spec, heads=layouts))
    wanted = tree.paths(numbered(teacher))[query].reshape(3, 16, 4, 6)[:, :, :2, :4].reshape(3, 16, 8)
    np.testing.assert_array_equal(cut[query], wanted)


@pytest.mark.parametrize(("kv_heads", "kept"), [(1, (0, 1)), (2, (0, 2))])
def test_a_student_without_silent_heads_says_what_its_teacher_says(kv_heads, kept):
    """Heads 4 over 2 key heads: those that the student drops add nothing in the teacher."""
    teacher = tiny("llama")
    params = drawn(teacher)
    output = params["layers"]["attention"]["output"]["kernel"].reshape(3, 4, 6, 16)
    output[:, [head for head in range(4) if head not in kept]] = 0
    params["layers"]["mlp"]["down"]["kernel"][:, 20:] = 0
    smaller = decoder(dataclasses.replace(teacher.config, heads=2, kv_heads=kv_heads, mlp_width=20))
    layouts = heads_of(teacher.config), heads_of(smaller.config)
    cut = inherit(params, teacher.module.spec, smaller.module.spec, heads=layouts)
    np.testing.assert_allclose(embedding(smaller, cut), embedding(teacher, params), rtol=0, atol=1e-5)


def test_a_student_without_idle_layers_says_what_its_teacher_says():
    teacher = tiny("vit")
    params = drawn(teacher)
    for part in (params["layers"]["attention"]["output"], params["layers"]["mlp"]["down"]):
        part["kernel"][1], part["bias"][1] = 0, 0
    student, cut = inherited_student(teacher, params, layers=(0, 2))
    assert student.layers == 2
    np.testing.assert_allclose(embedding(student, cut), embedding(teacher, params), rtol=0, atol=1e-5)
    other, cut = inherited_student(teacher, params, layers=(0, 1))
    assert np.abs(embedding(other, cut) - embedding(teacher, params)).max() > 0.01


def test_windows_go_with_the_layers():
    assert student_config(ENCODERS["gemma2"].config.tiny(), layers=(1, 2)).windowed == (False, True)
    assert student_config(ENCODERS["modernbert"].config.tiny(), layers=2).windowed == (False, True)


def test_layers_are_spread_evenly():
    assert chosen_layers(12, 4) == (0, 3, 6, 9)
    assert chosen_layers(12, 7) == (0, 1, 3, 5, 6, 8, 10)
    assert chosen_layers(3, None) == (0, 1, 2)
    assert chosen_layers(6, (1, 5)) == (1, 5)


def test_derived_feed_forward_widths():
    assert student_config(Dinov2Config.base_14(), width_fraction=0.5).mlp_width == 1536
    small = student_config(LlamaConfig.llama_3_8b(), width_fraction=0.375)
    assert (small.heads, small.kv_heads, small.width, small.mlp_width, small.head_width) == (12, 3, 1536, 5376, 128)


@pytest.mark.parametrize("name", ["bert", "clip_vision_model", "qwen2", "whisper", "dinov2_with_registers"])
def test_quarter_students_cost_at_most_a_quarter(name):
    config = dataclasses.replace(ENCODERS[name].config.tiny(), width=64, heads=4)
    teacher = ENCODERS[name].build(
        dataclasses.replace(config, mlp_width=256) if name != "dinov2_with_registers" else config
    )
    student, params = quarter_student(teacher, drawn(teacher))
    share = distillation.flops_of(student) / distillation.flops_of(teacher)
    assert 0.12 < share <= 0.25
    assert student.config.heads == 2
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, student.module.spec)


def test_a_quarter_of_a_real_size_is_half_the_heads_and_all_layers():
    """The count needs no memory, so neither does the choice; the cut itself does."""
    teacher = bert(BertConfig.mini_lm())
    zeros = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), teacher.module.spec)
    student, _ = quarter_student(teacher, zeros)
    config = student.config
    assert (config.heads, config.width, config.layers) == (6, 192, 6)
    assert 384 <= config.mlp_width < 768
    assert 0.23 < distillation.flops_of(student) / distillation.flops_of(teacher) <= 0.25


def test_a_little_less_than_a_quarter_keeps_half_the_heads():
    teacher = bert(dataclasses.replace(BertConfig.tiny(), width=64, heads=4, mlp_width=256))
    student, _ = quarter_student(teacher, drawn(teacher), flops_fraction=0.24)
    share = distillation.flops_of(student) / distillation.flops_of(teacher)
    assert student.config.heads == 2 and 0.15 < share <= 0.24


VIT = ENCODERS["vit"].build(VitConfig.tiny())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chosen_layers(3, 4), "got 4 layers for a student of 3"),
        (lambda: chosen_layers(3, (0, 3)), "expected some of 0 to 2"),
        (lambda: chosen_layers(3, (1, 0)), "ascending"),
        (lambda: chosen_layers(3, ()), "ascending"),
        (lambda: student_config(VitConfig.tiny(), width_fraction=0.3), "whole number of the 2 heads, for example 0.5"),
        (lambda: student_config(VitConfig.tiny(), width_fraction=2.0), "width_fraction is 2.0"),
        (lambda: student_config(VitConfig.tiny(), mlp_width=64), "mlp_width is 64, expected 1 to 32"),
        (lambda: student_config(Dinov2Config.tiny(), mlp_width=16), "derives it from the width"),
        (lambda: student_config(distillation.HeadLayout(1, 1, 1)), "HeadLayout has no field heads, layers, width"),
        (lambda: heads_of(object()), "object has no heads and no width"),
        (lambda: quarter_student(VIT, {}, flops_fraction=0.0), "flops_fraction is 0.0"),
        (lambda: quarter_student(VIT, {}, flops_fraction=0.01), "no student of VitConfig with 0.5 of the heads"),
        (lambda: inherited_student(VIT, {}), "the teacher has no parameter"),
        (lambda: inherit(numbered(VIT), VIT.module.spec, tiny("bert").module.spec), "the teacher has no parameter"),
        (
            lambda: inherit(
                numbered(VIT), VIT.module.spec, ENCODERS["vit"].build(VitConfig(image_size=12, patch=4)).module.spec
            ),
            "got 12 layers for a student of 3",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises((ConfigError), match=message):
        call()


def test_a_student_may_not_be_wider():
    wide = ENCODERS["clip_vision_model"].build(dataclasses.replace(ClipVisionConfig.tiny(), mlp_width=40))
    teacher = tiny("clip_vision_model")
    with pytest.raises(ConfigError, match="axis 'mlp' of the student is 40, of the teacher 32"):
        inherit(numbered(teacher), teacher.module.spec, wide.module.spec)
    with pytest.raises(ConfigError, match="got 1 layers"):
        inherit(numbered(teacher), teacher.module.spec, teacher.module.spec, layers=(1,))
    adapted = {**numbered(teacher), "final_norm": {"scale": np.ones(3, np.float32), "bias": np.ones(3, np.float32)}}
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        inherit(adapted, teacher.module.spec, teacher.module.spec)
