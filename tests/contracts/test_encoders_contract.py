"""What every registered encoder must do, whatever its architecture."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.encoders import (
    ENCODERS,
    AstConfig,
    BeitConfig,
    BertConfig,
    ClipTextConfig,
    ClipVisionConfig,
    DeitConfig,
    Dinov2Config,
    Dinov2RegistersConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    VideoMaeConfig,
    VitConfig,
    WhisperConfig,
)
from erel_jax.encoders.example_inputs import example_inputs
from erel_jax.errors import ConfigError
from erel_jax.layers import BFLOAT16, Precision, unrolled
from erel_jax.module import abstract, count, init
from erel_jax.sharding import RULES, batch_sharding, compile_step, make_mesh, shardings

# Encoders made of the parts of BERT, LLaMA, Gemma 3 or DINOv2: their golden files are in the default run, their
# contracts are slow tests.
RELATIVES = frozenset(
    {
        "dinov2_with_registers",
        "distilbert",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "mistral",
        "modernbert",
        "qwen2",
        "qwen3",
        "roberta",
        "xlm-roberta",
    }
)
TEXTS = [n for n in sorted(ENCODERS) if ENCODERS[n].build(ENCODERS[n].config.tiny()).modality == "text"]


def marked(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in RELATIVES else name for name in names]


NAMES = marked(sorted(ENCODERS))
# Products of other shapes round differently, and norms of small states enlarge that: up to 7e-6 on processors seen.
ROUNDING = 1e-5
# Encoders of the same block as ViT, where its sharding is tested with gradients: here outputs, one of them by default.
DERIVED = frozenset(
    {
        "audio-spectrogram-transformer",
        "beit",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "siglip_text_model",
        "siglip_vision_model",
        "videomae",
        "whisper",
    }
)
CORE = [pytest.param(n, marks=pytest.mark.slow) if n in RELATIVES | DERIVED else n for n in sorted(ENCODERS)]
SPLIT = ("siglip_vision_model", "tensor")
EVERYTHING = {"taps": (0, 2, 3), "tokens": True, "hidden_states": True}


@pytest.fixture(scope="module")
def built():
    """`built(name)` gives (encoder, params), built once."""
    made = {}

    def build(name):
        if name not in made:
            family = ENCODERS[name]
            encoder = family.build(family.config.tiny())
            made[name] = encoder, drawn(encoder.module.spec)
        return made[name]

    return build


def drawn(spec, seed=1):
    """Parameters with values in every leaf (a fresh bias would be 0), drawn by NumPy because that compiles nothing."""
    draw = np.random.default_rng(seed)
    return tree.map_with_path(
        lambda path, leaf: jnp.asarray(
            (path.endswith("scale") + 0.2 * draw.normal(size=leaf.shape)).astype(np.float32)
        ),
        spec,
    )


def pooled(name, states, inputs):
    """Taps float[S, B, D] from states float[S, B, L, D], as each family promises to pool them."""
    states = np.asarray(states)
    if name in ("siglip_vision_model", "videomae", "whisper"):
        return states.mean(2)
    if name == "audio-spectrogram-transformer":
        return states[:, :, :2].mean(2)
    if name == "siglip_text_model":
        return states[:, :, -1]
    where = inputs["mask"].sum(1) - 1 if name == "clip_text_model" else np.zeros(states.shape[1], int)
    return states[:, np.arange(states.shape[1]), where]


def row(inputs, i):
    return {name: value[i : i + 1] for name, value in inputs.items()}


def expect_close(got, expected, tolerance=1e-5):
    for path, leaf in tree.paths(expected).items():
        np.testing.assert_allclose(tree.paths(got)[path], leaf, rtol=tolerance, atol=tolerance, err_msg=path)


@pytest.fixture(scope="module")
def everything(built):
    """`everything(name)` gives (inputs, all outputs for them), compiled once for the tests that compare with it."""
    made = {}

    def compute(name):
        if name not in made:
            encoder, params = built(name)
            inputs = example_inputs(encoder)
            made[name] = inputs, jax.device_get(jax.jit(partial(encoder.module.apply, **EVERYTHING))(params, inputs))
        return made[name]

    return compute


@pytest.mark.parametrize("name", NAMES)
def test_spec_tree_is_params_tree_and_jit_is_eager(built, everything, name):
    encoder, params = built(name)
    spec = encoder.module.spec
    fresh = jax.eval_shape(partial(init, spec=spec), jax.random.key(0))
    assert jax.tree.structure(fresh) == jax.tree.structure(spec)
    assert {p: (x.shape, x.dtype) for p, x in tree.paths(fresh).items()} == {
        p: (s.shape, s.dtype) for p, s in tree.paths(spec).items()
    }
    inputs, jitted = everything(name)
    eager = encoder.module.apply(params, inputs)
    np.testing.assert_allclose(jitted.embedding, eager.embedding, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_have_the_promised_shapes_and_taps_are_pooled_states(built, everything, name):
    encoder, _ = built(name)
    inputs, out = everything(name)
    length = inputs["ids"].shape[1] if "ids" in inputs else encoder.config.tokens
    if name == "siglip_text_model":
        length = encoder.config.max_positions
    assert out.embedding.shape == (4, encoder.embedding_width)
    assert out.tokens.shape == (4, length, encoder.width)
    assert out.hidden_states.shape == (encoder.layers + 1, 4, length, encoder.width)
    assert all(leaf.dtype == jnp.float32 for leaf in (out.embedding, out.tokens, out.taps, out.hidden_states))
    assert (out.mask is None) == (encoder.modality != "text")
    expected = pooled(name, out.hidden_states, inputs)[[0, 2, 3]].transpose(1, 0, 2)
    np.testing.assert_allclose(out.taps, expected, atol=1e-6)


def test_bert_taps_are_masked_means_when_it_pools_by_mean():
    encoder = ENCODERS["bert"].build(BertConfig.tiny("mean"))
    params = drawn(encoder.module.spec)
    inputs = example_inputs(encoder)
    out = jax.jit(partial(encoder.module.apply, **EVERYTHING))(params, inputs)
    weights = inputs["mask"][None, :, :, None]
    means = (np.asarray(out.hidden_states) * weights).sum(2) / weights.sum(2)
    np.testing.assert_allclose(out.taps, means[[0, 2, 3]].transpose(1, 0, 2), atol=1e-6)
    np.testing.assert_allclose(out.embedding, means[-1], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_batch(built, everything, name):
    encoder, params = built(name)
    inputs, together = everything(name)
    alone = jax.jit(partial(encoder.module.apply, **EVERYTHING))
    for i in range(4):
        found = alone(params, row(inputs, i))
        np.testing.assert_allclose(found.embedding, together.embedding[i : i + 1], rtol=ROUNDING, atol=ROUNDING)
        np.testing.assert_allclose(found.taps, together.taps[i : i + 1], rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_vmap_is_a_loop(built, everything, name):
    encoder, params = built(name)
    inputs, together = everything(name)
    rows = jax.tree.map(lambda x: x[:, None], inputs)
    mapped = jax.jit(jax.vmap(partial(encoder.module.apply, taps=(0, 2, 3)), (None, 0)))(params, rows)
    np.testing.assert_allclose(mapped.embedding[:, 0], together.embedding, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mapped.taps[:, 0], together.taps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", marked(TEXTS))
def test_padding_changes_nothing(built, everything, name):
    encoder, params = built(name)
    inputs, short = everything(name)
    encode = jax.jit(partial(encoder.module.apply, taps=(0, 2, 3)))
    for filler in (0, encoder.config.vocabulary - 1):
        longer = {
            "ids": np.pad(np.where(inputs["mask"], inputs["ids"], filler), ((0, 0), (0, 8)), constant_values=filler),
            "mask": np.pad(inputs["mask"], ((0, 0), (0, 8))),
        }
        found = encode(params, longer)
        np.testing.assert_allclose(found.embedding, short.embedding, rtol=ROUNDING, atol=ROUNDING)
        np.testing.assert_allclose(found.taps, short.taps, rtol=ROUNDING, atol=ROUNDING)
    empty = {"ids": longer["ids"], "mask": np.zeros_like(longer["mask"])}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(encode(params, empty)))


@pytest.mark.parametrize("name", NAMES)
def test_layers_above_the_highest_tap_cost_nothing(built, name):
    encoder, _ = built(name)
    inputs = example_inputs(encoder)

    def flops(**options):
        with unrolled():
            fresh = jax.jit(lambda p, i: encoder.module.apply(p, i, **options))
            return (fresh.lower(abstract(encoder.module.spec), inputs).cost_analysis() or {})["flops"]

    costs = [flops(taps=(k,), embedding=False) for k in range(encoder.layers + 1)]
    per_layer = np.diff(costs)
    assert (per_layer > 0).all()
    # State 0 of BEiT's class token is its parameter alone, so the compiler leaves the patches out of that one program.
    steady = per_layer[1:] if name == "beit" else per_layer
    np.testing.assert_allclose(steady, steady[0], rtol=0.02)
    assert flops(taps=(0,)) >= costs[-1]


@pytest.fixture(scope="module")
def reference(built):
    """`reference(name)` gives (step with gradients, inputs, what the step computes on one device)."""
    made = {}

    def compute(name):
        if name not in made:
            encoder, params = built(name)
            inputs = example_inputs(encoder, rows=8)

            def step(p, i, apply=encoder.module.apply):
                def loss(q):
                    out = apply(q, i, taps=(0, 2))
                    return jnp.mean(jnp.sin(out.embedding)) + jnp.mean(out.taps**2), (out.embedding, out.taps)

                return jax.value_and_grad(loss, has_aux=True)(p)

            made[name] = step, inputs, jax.device_get(compile_step(step)(params, inputs))
        return made[name]

    return compute


@pytest.mark.parametrize("name", CORE)
def test_gradients_are_finite_and_reach_every_used_parameter(reference, name):
    _, _, (_, gradients) = reference(name)
    for path, gradient in tree.paths(gradients).items():
        assert np.isfinite(gradient).all(), path
        # A key's bias shifts all scores of a query equally, so the softmax cancels it.
        assert path.endswith("key/bias") or np.abs(gradient).max() > 0, path


def test_recomputed_layers_give_the_same_gradients(built, reference):
    encoder, params = built("vit")
    step, inputs, expected = reference("vit")
    again = ENCODERS["vit"].build(encoder.config, remat=True)
    remade = jax.jit(partial(step, apply=again.module.apply))
    assert remade.lower(params, inputs).as_text().count("optimization_barrier") > 0
    expect_close(remade(params, inputs), expected, 1e-6)


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        pytest.param(
            name,
            rules,
            marks=[pytest.mark.slow] if name in RELATIVES or (name in DERIVED and (name, rules) != SPLIT) else [],
        )
        for name in sorted(ENCODERS)
        for rules in ("replicated", "fsdp", "tensor")
    ],
)
def test_sharded_equals_unsharded(built, reference, name, rules):
    encoder, params = built(name)
    if name in DERIVED or name.startswith("clip"):  # the same blocks as ViT: gradients there, outputs here
        step, inputs, expected = partial(encoder.module.apply, embedding=True), example_inputs(encoder, rows=8), None
    else:
        step, inputs, expected = reference(name)
    mesh = make_mesh(data=4, model=2)
    placed = jax.device_put(params, shardings(encoder.module.spec, mesh, RULES[rules]))
    batch = {key: jax.device_put(value, batch_sharding(mesh, value.ndim)) for key, value in inputs.items()}
    sharded = compile_step(step, mesh=mesh)
    got = sharded(placed, batch)
    sharded(placed, batch)
    assert sharded.compilations == 1
    expected = compile_step(step)(params, inputs) if expected is None else expected
    expect_close(jax.device_get(got), jax.device_get(expected), 1e-5)


@pytest.mark.parametrize("name", CORE)
def test_bfloat16_policy(built, everything, name):
    family = ENCODERS[name]
    encoder, params = built(name)
    half = family.build(encoder.config, BFLOAT16)
    inputs, exact = everything(name)
    run = jax.jit(partial(half.module.apply, **EVERYTHING))
    text = run.lower(params, inputs).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all("bf16>" in line and "-> tensor" in line and line.rstrip().endswith("xf32>") for line in products)
    out = run(params, inputs)
    for got, want in zip(jax.tree.leaves(out), jax.tree.leaves(exact), strict=True):
        assert got.dtype == want.dtype
    a, b = np.asarray(out.embedding), np.asarray(exact.embedding)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999
    small = family.build(encoder.config, Precision(param=jnp.bfloat16, compute=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(small.module.spec)} == {jnp.bfloat16}
    shapes = jax.eval_shape(partial(small.module.apply, **EVERYTHING), abstract(small.module.spec), inputs)
    assert shapes.embedding.dtype == shapes.taps.dtype == jnp.float32


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (BertConfig.base(), 108_891_648),
        (BertConfig.base("pooler"), 109_482_240),
        (BertConfig.mini_lm(), 22_565_376),
        (VitConfig.base_16(), 85_798_656),
        (ClipTextConfig.base_32(), 63_428_096),
        (ClipVisionConfig.base_32(), 87_849_216),
        (ClipTextConfig.large_14(), 123_650_304),
        (ClipVisionConfig.large_14(), 303_966_208),
        (AstConfig.base(), 86_187_264),
        (BeitConfig.base_16(), 85_761_984),
        (VideoMaeConfig.base(), 86_227_200),
        (WhisperConfig.large_v3(), 636_968_960),
        (DeitConfig.base_16(), 85_800_192),
        (Dinov2Config.base_14(), 86_579_712),
        # As the originals count, less the mask token that only pre-training reads.
        (Dinov2Config.giant_14(), 1_136_480_768 - 1536),
        (Dinov2RegistersConfig.base_14(), 86_583_552 - 768),
        (Dinov2RegistersConfig.giant_14(), 1_136_486_912 - 1536),
        (SiglipTextConfig.so400m(), 449_734_896),
        (SiglipVisionConfig.so400m_14_384(), 428_225_600),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_full_size_counts_and_lowering_from_abstract_inputs(config, parameters):
    family = next(f for f in ENCODERS.values() if isinstance(config, f.config))
    encoder = family.build(config, BFLOAT16)
    assert count(encoder.module.spec) == parameters
    inputs = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in example_inputs(encoder, rows=2).items()}
    out = jax.eval_shape(
        partial(encoder.module.apply, taps=tuple(range(encoder.layers + 1))), abstract(encoder.module.spec), inputs
    )
    assert out.embedding.shape == (2, encoder.embedding_width)
    assert out.taps.shape == (2, encoder.layers + 1, encoder.width)


@pytest.mark.parametrize("name", NAMES)
def test_impossible_requests_are_named(built, name):
    encoder, _ = built(name)
    inputs = example_inputs(encoder)

    def apply(inputs, **options):
        jax.eval_shape(partial(encoder.module.apply, **options), abstract(encoder.module.spec), inputs)

    for taps in ((), (4,), (-1,), (True,), (1.0,)):
        with pytest.raises(ConfigError, match="taps"):
            apply(inputs, taps=taps)
    with pytest.raises(ConfigError, match="nothing to compute"):
        apply(inputs, embedding=False)
    with pytest.raises(ConfigError, match="lack"):
        apply({})
    if encoder.modality == "text":
        with pytest.raises(ConfigError, match="positions"):
            apply({key: np.repeat(value, 9, axis=1) for key, value in inputs.items()})
        with pytest.raises(ConfigError, match="mask"):
            apply({"ids": inputs["ids"], "mask": inputs["mask"][:, 1:]})
    else:
        [(key, value)] = inputs.items()
        with pytest.raises(ConfigError, match="image processor" if key == "pixels" else rf"{key} .*expected"):
            apply({key: value[:, 1:]})
        with pytest.raises(ConfigError, match="uint8"):
            apply({key: value.astype(np.uint8)})


def test_configs_are_checked_when_made():
    with pytest.raises(ConfigError, match="mean"):
        BertConfig(pooling="means")
    with pytest.raises(ConfigError, match="heads"):
        VitConfig(width=20, heads=3)
    with pytest.raises(ConfigError, match="patch"):
        VitConfig(image_size=30, patch=16)
    with pytest.raises(ConfigError, match="eos_id"):
        ClipTextConfig(vocabulary=10)
