"""Composed models: published parameter counts, what their heads compute, and where pretrained weights go."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import METHODS
from erel_jax.adapters.adapted import dual_encoder, item_encoder, tower_parameters
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.errors import ConfigError
from erel_jax.recommendation import sasrec

TINY = {"text": bert(BertConfig.tiny()), "image": vit(VitConfig.tiny())}


def drawn(spec, seed=1):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), spec)


# The counts of the released baselines over BERT-base and ViT-B/16, with the user encoder. BERT's pooler exists there:
# full fine-tuning leaves it out, and bias tuning counts its bias.
@pytest.mark.parametrize(
    ("name", "trainable"),
    [
        ("full", 194_897_216),
        ("houlsby", 4_965_440),
        ("lora", 833_600),
        ("bitfit", 412_736),
        ("iisan", 4_113_877),
        ("iisan_cached", 4_113_877),
        ("linear_probe", 206_912),
        ("frozen", 100_224),
    ],
)
def test_trainable_parameters_of_the_released_baselines(name: str, trainable: int):
    encoders = {"text": bert(BertConfig.base("pooler")), "image": vit(VitConfig.base_16())}
    adapted = item_encoder(encoders, METHODS[name])
    spec = {**adapted.module.spec, "user": sasrec().spec}
    selected, rest = tree.partition(spec, [*adapted.trainable, "user/.*"])
    assert module.count(selected) == trainable
    towers = sum(module.count(encoder.module.spec) for encoder in encoders.values())
    added = {"full": 206_912, "bitfit": 206_912, "lora": 206_912 + 589_824, "houlsby": 4_965_440}
    new = added.get(name, trainable)
    if name == "frozen":
        assert module.count(rest) == 98_432 + 8_256 and module.count(selected) == 100_224
    else:
        shift_and_scale = 2 * 2 * 7 * 768 if name.startswith("iisan") else 0
        encoded = 0 if adapted.method.cached else towers
        assert module.count((selected, rest)) == encoded + new + shift_and_scale


def test_taps_of_side_methods_follow_the_encoders_depth():
    deep = {"text": bert(BertConfig.base()), "image": vit(VitConfig.tiny())}
    assert dual_encoder(deep, METHODS["iisan"]).taps == {"text": (0, 2, 4, 6, 8, 10, 12), "image": (0, 1, 2, 3)}
    assert dual_encoder(deep, METHODS["lora"]).taps == {}
    with pytest.raises(ConfigError, match="equally many taps"):
        item_encoder(deep, METHODS["iisan_cached"])


def test_affine_item_head_equals_its_definition():
    adapted = item_encoder(TINY, METHODS["linear_probe"], embedding=6)
    params = drawn(adapted.module.spec)
    states = drawn({name: module.ParamSpec((4, 16), (None, None)) for name in TINY}, seed=2)
    p, h = jax.tree.map(np.asarray, (params["head"], states))
    parts = [h[name] @ p[name]["kernel"] + p[name]["bias"] for name in ("text", "image")]
    expected = np.concatenate(parts, axis=1) @ p["fusion"]["kernel"] + p["fusion"]["bias"]
    np.testing.assert_allclose(adapted.module.apply(params, states), expected, rtol=1e-5, atol=1e-5)
    presence = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], bool)
    kept = [part * presence[:, m : m + 1] for m, part in enumerate(parts)]
    expected = np.concatenate(kept, axis=1) @ p["fusion"]["kernel"] + p["fusion"]["bias"]
    np.testing.assert_allclose(adapted.module.apply(params, states, presence), expected, rtol=1e-5, atol=1e-5)


def test_live_towers_pass_a_gelu_before_fusion_and_one_modality_needs_no_fusion():
    text = {"text": TINY["text"]}
    live = item_encoder(text, METHODS["full"], embedding=6)
    stored = item_encoder(text, METHODS["linear_probe"], embedding=6)
    assert set(live.module.spec["head"]) == {"text"}
    params = drawn(live.module.spec)
    inputs = {"ids": np.arange(1, 9, dtype=np.int32).reshape(2, 4), "mask": np.ones((2, 4), bool)}
    embedding = TINY["text"].module.apply(params["towers"]["text"], inputs).embedding
    affine = stored.module.apply({"head": params["head"]}, {"text": embedding})
    got = live.module.apply(params, {"text": inputs})
    np.testing.assert_allclose(got, jax.nn.gelu(affine, approximate=False), rtol=1e-4, atol=1e-4)


def test_towers_of_unequal_width_meet_in_the_narrower_one():
    wide = {"text": bert(dataclasses.replace(BertConfig.tiny(), width=24)), "image": TINY["image"]}
    frozen, probe = (dual_encoder(wide, METHODS[name]) for name in ("frozen", "linear_probe"))
    for adapted in (frozen, probe):
        params = module.init(jax.random.key(0), adapted.module.spec)
        kernels = {name: np.asarray(params["head"][name]["project"]["kernel"]) for name in wide}
        assert kernels["text"].shape == (24, 16)
        np.testing.assert_array_equal(kernels["image"], np.eye(16))
        np.testing.assert_allclose(kernels["text"].T @ kernels["text"], np.eye(16), atol=1e-5)
        states = drawn({"text": module.ParamSpec((3, 24), (None, None))})
        got = adapted.module.apply(params, states)
        assert set(got) == {"text"}
        np.testing.assert_allclose(got["text"], np.asarray(states["text"]) @ kernels["text"], rtol=1e-5, atol=1e-5)
    assert frozen.trainable == () and probe.trainable == ("head/.*",)
    assert dual_encoder(TINY, METHODS["frozen"]).module.spec["head"].keys() == {"logit_scale", "text", "image"}
    assert module.count(dual_encoder(TINY, METHODS["frozen"]).module.spec) == 1


def test_pretrained_towers_arrive_unchanged_and_the_scale_starts_at_one_fourteenth():
    towers = {name: drawn(encoder.module.spec) for name, encoder in TINY.items()}
    adapted = dual_encoder(TINY, METHODS["lora"])
    params = tower_parameters(adapted, jax.random.key(0), towers)
    kernel = params["towers"]["text"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.base is towers["text"]["layers"]["attention"]["query"]["kernel"]
    assert not np.any(kernel.b) and np.any(kernel.a)
    assert float(params["head"]["logit_scale"]) == pytest.approx(np.log(1 / 0.07), abs=1e-3)
    assert set(tower_parameters(dual_encoder(TINY, METHODS["frozen"]), jax.random.key(0), towers)) == {"head"}
    with pytest.raises(ConfigError, match="shape"):
        tower_parameters(
            adapted,
            jax.random.key(0),
            {
                "text": towers["text"],
                "image": drawn(TINY["image"].module.spec) | {"final_norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)}},
            },
        )


@pytest.mark.parametrize("name", ["versa_cached", "crossan_cached"])
def test_side_networks_for_any_number_of_modalities_and_any_shape(name):
    """One to four modalities, of two depths and widths; IISAN's inter tower says who could do it."""
    wide = bert(dataclasses.replace(BertConfig.tiny(), width=24, layers=5))
    encoders = {"text": wide, "image": vit(VitConfig.tiny()), "plot": bert(BertConfig.tiny()), "cast": wide}
    for count in range(1, 5):
        chosen = dict(list(encoders.items())[:count])
        adapted = item_encoder(chosen, METHODS[name], embedding=6)
        states = {
            name: jax.ShapeDtypeStruct((4, len(adapted.taps[name]), encoder.width), jnp.bfloat16)
            for name, encoder in chosen.items()
        }
        presence = jax.ShapeDtypeStruct((4, count), jnp.bool_)
        made = jax.eval_shape(adapted.module.apply, module.abstract(adapted.module.spec), states, presence)
        assert made.shape == (4, 6) and made.dtype == jnp.float32
    with pytest.raises(ConfigError, match="use versa_cached or crossan_cached"):
        item_encoder(encoders, METHODS["iisan_cached"])


def test_int8_states_are_widened_where_they_are_read():
    encoders = {"text": bert(BertConfig.tiny())}
    adapted = item_encoder(encoders, METHODS["linear_probe"], embedding=6)
    codes = np.random.default_rng(0).integers(-127, 128, (4, 16)).astype(np.int8)
    scales = np.array([0.5, 0.0, 1.0, 2.0], np.float32)
    params = module.init(jax.random.key(0), adapted.module.spec)
    stored = {"text": {"values": jnp.asarray(codes), "scales": jnp.asarray(scales)}}
    wide = {"text": jnp.asarray(codes * scales[:, None], jnp.float32)}
    np.testing.assert_array_equal(adapted.module.apply(params, stored), adapted.module.apply(params, wide))


def test_vectors_are_as_wide_as_asked():
    wider = dual_encoder(TINY, METHODS["full"], embedding=24).module.spec["head"]
    assert wider["text"]["project"]["kernel"].shape == wider["image"]["project"]["kernel"].shape == (16, 24)
    # Towers of that width already need no map where none trains.
    assert "project" not in dual_encoder(TINY, METHODS["frozen"], embedding=16).module.spec["head"]["text"]


@pytest.mark.parametrize("name", ["linear_probe", "lora"])
def test_what_does_not_fit_the_modalities_is_named(name):
    adapted = item_encoder(TINY, METHODS[name], embedding=6)
    params = drawn(adapted.module.spec)
    live = {
        "text": {"ids": np.ones((4, 3), np.int32), "mask": np.ones((4, 3), bool)},
        "image": {"pixels": np.ones((4, 12, 12, 3), np.float32)},
    }
    inputs = live if name == "lora" else {modality: np.ones((4, 16), np.float32) for modality in TINY}
    presence = np.array([[1, 1], [0, 1], [1, 0], [1, 1]], bool)
    named = {modality: presence[:, m] for m, modality in enumerate(TINY)}
    expected = adapted.module.apply(params, inputs, presence)
    np.testing.assert_array_equal(adapted.module.apply(params, inputs, named), expected)
    for wrong in (np.ones((4, 3), bool), np.ones((1, 2), bool), np.full((4, 2), np.nan)):
        with pytest.raises(ConfigError, match="got presence of"):
            adapted.module.apply(params, inputs, wrong)
    with pytest.raises(ConfigError, match=r"inputs of \['text'\] for encoders"):
        adapted.module.apply(params, {"text": inputs["text"]})
    with pytest.raises(ConfigError, match="equally many"):
        adapted.module.apply(params, {**inputs, "image": jax.tree.map(lambda x: x[:1], inputs["image"])})


def test_models_of_nothing_are_refused():
    for build in (dual_encoder, item_encoder):
        with pytest.raises(ConfigError, match="no encoder"):
            build({}, METHODS["lora"])
        with pytest.raises(ConfigError, match="embedding=-1"):
            build(TINY, METHODS["lora"], embedding=-1)
    adapted = dual_encoder(TINY, METHODS["lora"])
    with pytest.raises(ConfigError, match=r"'texts'.* differ"):
        adapted.module.apply({}, {"texts": np.ones(1)})
    with pytest.raises(ConfigError, match=r"expected those of \['image'\] too"):
        tower_parameters(adapted, jax.random.key(0), {"text": drawn(TINY["text"].module.spec)})
