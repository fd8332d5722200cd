"""What every registered adaptation method must do, as two towers side by side and as the encoder of an item."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import METHODS
from erel_jax.adapters.adapted import dual_encoder, item_encoder, read_tower, tower_parameters
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.layers import BFLOAT16
from erel_jax.training.optimizer import rates_by_path

SHAPES = {"dual": dual_encoder, "item": partial(item_encoder, embedding=8)}
# Methods outside the default run; they share their shape with one that is in it, so most of their tests are slow ones.
EXTRA = (
    *("dora", "ia3", "vera", "pfeiffer", "parallel", "compacter", "k_adapter", "partial_layers", "layer_norm", "lit"),
)
# Adapters that cannot start as the frozen tower: attention sees more as soon as they are there.
PROMPTS = ("prompt_tuning", "prefix_tuning")
# Nor those that round their base.
ROUNDED = ("qlora_int8", "qlora_nf4")
QUICK_EXTRA = ("dora", "parallel")
SLOW = {*EXTRA, *PROMPTS, *ROUNDED} - {*QUICK_EXTRA}


def case(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


NAMES = [case(name) for name in METHODS]
UNCHANGED_AT_START = ("frozen", "linear_probe", "full", "bitfit", "lora", "rslora", "houlsby", *EXTRA)
ROWS, TOKENS = 5, 7
PRESENCE = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], bool)
# Compiling is what these tests cost.
QUICK = {"xla_backend_optimization_level": 0}
ENCODERS = {"text": bert(BertConfig.tiny()), "image": vit(VitConfig.tiny())}


def drawn(spec, seed=1):
    """Parameters with values in every leaf (zero factors and biases included), drawn without compiling anything."""
    draw = np.random.default_rng(seed)

    def one(path, leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):  # a quantized base
            low, high = (0, 256) if leaf.dtype == jnp.uint8 else (-5, 6)
            return jnp.asarray(draw.integers(low, high, leaf.shape).astype(leaf.dtype))
        unit = path.endswith("scale") and not path.endswith(("kernel/scale", "base/scale"))
        return jnp.asarray((unit + 0.2 * draw.normal(size=leaf.shape)).astype(np.float32))

    return tree.map_with_path(one, spec)


TOWERS = {name: drawn(encoder.module.spec) for name, encoder in ENCODERS.items()}


def raw_inputs(seed=0):
    draw = np.random.default_rng(seed)
    ids = draw.integers(1, 64, (ROWS, TOKENS)).astype(np.int32)
    mask = np.arange(TOKENS)[None] < np.arange(TOKENS, TOKENS - ROWS, -1)[:, None]
    pixels = draw.normal(size=(ROWS, 12, 12, 3)).astype(np.float32)
    return {"text": {"ids": np.where(mask, ids, 0).astype(np.int32), "mask": mask}, "image": {"pixels": pixels}}


@pytest.fixture(scope="module")
def tower_outputs():
    """`tower_outputs(modality, taps, seed)`: what a frozen tower says, computed once."""
    compiled, made = {}, {}

    def compute(modality, taps=None, seed=0):
        if (modality, taps) not in compiled:
            compiled[modality, taps] = jax.jit(
                partial(read_tower, ENCODERS[modality], taps=taps), compiler_options=QUICK
            )
        if (modality, taps, seed) not in made:
            made[modality, taps, seed] = compiled[modality, taps](TOWERS[modality], raw_inputs(seed)[modality])
        return made[modality, taps, seed]

    return compute


@pytest.fixture(scope="module")
def built(tower_outputs):
    """`built(name, shape)`: the model, parameters, its inputs by seed and its compiled `apply`, made once."""
    made = {}

    def inputs_of(adapted, seed=0):
        if not adapted.method.cached:
            return raw_inputs(seed)
        taps = (0, 1, 2, 3) if adapted.method.reads == "taps" else None
        return {modality: tower_outputs(modality, taps, seed) for modality in ENCODERS}

    def build(name, shape):
        if (name, shape) not in made:
            adapted = SHAPES[shape](ENCODERS, METHODS[name])
            made[name, shape] = SimpleNamespace(
                adapted=adapted,
                params=drawn(adapted.module.spec, seed=2),
                inputs=partial(inputs_of, adapted),
                run=jax.jit(adapted.module.apply, compiler_options=QUICK),
            )
        return made[name, shape]

    return build


def check_close(got, expected, tolerance=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for path, leaf in tree.paths(expected).items():
        np.testing.assert_allclose(tree.paths(got)[path], leaf, rtol=tolerance, atol=tolerance, err_msg=path)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_jit_is_eager_and_gradients_exist_for_what_trains_alone(built, name, shape):
    """That they are finite and reach every parameter is shown by the training steps of `tests/multi_device`."""
    model = built(name, shape)
    presence = () if shape == "dual" else (PRESENCE,)
    jitted = model.run(model.params, model.inputs(), *presence)
    with jax.disable_jit():
        check_close(jitted, model.adapted.module.apply(model.params, model.inputs(), *presence))
    for leaf in jax.tree.leaves(jitted):
        assert leaf.dtype == jnp.float32 and leaf.shape == (ROWS, 16 if shape == "dual" else 8)
        assert np.isfinite(leaf).all()
    trainable, frozen = tree.partition(model.params, model.adapted.trainable)

    def scalar(trainable):
        return sum(map(jnp.sum, jax.tree.leaves(model.adapted.module.apply(tree.merge(trainable, frozen), inputs))))

    inputs = model.inputs()
    gradients = tree.paths(jax.eval_shape(jax.grad(scalar), trainable)) if model.adapted.trainable else {}
    assert set(gradients) == tree.select(tree.paths(model.params), model.adapted.trainable)
    assert any(path.startswith("towers/") for path in gradients) == bool(model.adapted.method.trains)
    assert any(path.startswith("head/") for path in gradients) == (model.adapted.method.head != "none")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_lowers_without_memory(name, shape):
    """Also in bfloat16, from abstract parameters and inputs."""
    encoders = {"text": bert(BertConfig.tiny(), BFLOAT16), "image": vit(VitConfig.tiny(), BFLOAT16)}
    adapted = SHAPES[shape](encoders, METHODS[name], precision=BFLOAT16)
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), raw_inputs())
    if adapted.method.cached:
        stored = (ROWS, 4, 16) if adapted.method.reads == "taps" else (ROWS, 16)
        inputs = {modality: jax.ShapeDtypeStruct(stored, jnp.bfloat16) for modality in encoders}
    lowered = jax.jit(adapted.module.apply).lower(module.abstract(adapted.module.spec), inputs)
    for leaf in jax.tree.leaves(lowered.out_info):
        assert leaf.dtype == jnp.float32 and leaf.shape == (ROWS, 16 if shape == "dual" else 8)


@pytest.mark.parametrize("name", [case(name) for name in UNCHANGED_AT_START])
def test_two_towers_start_as_the_frozen_towers(built, tower_outputs, name):
    model = built(name, "dual")
    params = tower_parameters(model.adapted, jax.random.key(0), TOWERS)
    got = model.run(params, model.inputs())
    for modality in ENCODERS:
        np.testing.assert_allclose(got[modality], tower_outputs(modality), atol=1e-6)
    if not model.adapted.method.cached:
        # Other adapters give other vectors, so the comparison can fail.
        other = model.run(model.params, model.inputs())
        assert np.abs(np.asarray(other["text"]) - np.asarray(got["text"])).max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_and_uncached_side_networks_agree(built, shape):
    live, cached = built("iisan", shape), built("iisan_cached", shape)
    head = drawn(cached.adapted.module.spec, seed=3)
    assert jax.tree.structure(head["head"]) == jax.tree.structure(live.params["head"])
    presence = () if shape == "dual" else (PRESENCE,)
    got = live.run({**head, "towers": TOWERS}, live.inputs(), *presence)
    check_close(got, cached.run(head, cached.inputs(), *presence))


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_modality_has_no_influence(built, name):
    model = built(name, "item")
    inputs, others = model.inputs(), model.inputs(seed=9)
    same = np.asarray(model.run(model.params, inputs, PRESENCE))
    everything = np.asarray(model.run(model.params, inputs, np.ones((ROWS, 2), bool)))
    for column, modality in enumerate(ENCODERS):
        changed = np.asarray(model.run(model.params, {**inputs, modality: others[modality]}, PRESENCE))
        there = PRESENCE[:, column]
        np.testing.assert_allclose(changed[~there], same[~there], atol=1e-6)
        assert (np.abs(changed[there] - same[there]).max(axis=1) > 1e-4).all()
    whole = PRESENCE.all(axis=1)
    np.testing.assert_allclose(everything[whole], same[whole], atol=1e-5)
    assert (np.abs(everything[~whole] - same[~whole]).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].cached])
def test_stored_nonsense_of_an_absent_modality_is_never_read(built, name):
    """Neither by the vectors nor by the gradients."""
    model = built(name, "item")
    inputs = model.inputs()
    spoiled = {**inputs, "image": inputs["image"].at[1].set(jnp.nan)}

    def scalar(params, states):
        output = model.adapted.module.apply(params, states, PRESENCE)
        return jnp.sum(jnp.sin(output)), output

    run = jax.jit(jax.value_and_grad(scalar, has_aux=True), compiler_options=QUICK)
    (_, same), gradients = run(model.params, inputs)
    (_, got), found = run(model.params, spoiled)
    check_close(got, same, 1e-6)
    check_close(found, gradients)


@pytest.mark.parametrize("name", ["full", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lora", "iisan"))])
def test_nonsense_in_a_live_input_of_an_absent_modality_reaches_no_gradient(built, name):
    """A tower's backward pass would turn NaN times zero into NaN, so the input itself is left out."""
    model = built(name, "item")
    inputs = model.inputs()
    pixels = inputs["image"]["pixels"].copy()
    pixels[1] = np.nan
    trainable, frozen = tree.partition(model.params, model.adapted.trainable)

    def scalar(trainable, inputs):
        return jnp.sum(jnp.sin(model.adapted.module.apply(tree.merge(trainable, frozen), inputs, PRESENCE)))

    run = jax.jit(jax.value_and_grad(scalar), compiler_options=QUICK)
    value, gradients = run(trainable, inputs)
    found, other = run(trainable, {**inputs, "image": {"pixels": pixels}})
    assert np.isfinite(value) and float(found) == pytest.approx(float(value), abs=1e-6)
    check_close(other, gradients)


@pytest.mark.parametrize("name", NAMES)
def test_is_described_and_has_learning_rates(built, name):
    method = METHODS[name]
    assert method.name == name and method.summary and "\n" not in method.summary and len(method.summary) <= 80
    assert 0 < method.learning_rate <= 0.1
    assert (method.tower_learning_rate > 0) == bool(method.trains)
    assert not (method.cached and method.trains)
    # Nobody but the frozen encoders comes without a rate, and no rate without its source.
    assert bool(method.rate_source) == (name != "frozen") and len(method.rate_source) <= 80
    for shape in SHAPES:
        adapted = built(name, shape).adapted
        if not adapted.trainable:
            continue
        trainable, _ = tree.partition(adapted.module.spec, adapted.trainable)
        rates = rates_by_path(trainable, adapted.learning_rates)
        for path, rate in rates.items():
            expected = method.tower_learning_rate if path.startswith("towers/") else method.learning_rate
            if shape == "dual":
                expected *= 768 / max(encoder.width for encoder in adapted.encoders.values())
            assert rate == pytest.approx(expected), path
