"""Adapter folders: written and read back, and what is refused."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from erel_jax import module, tree
from erel_jax.adapters import dora, houlsby, ia3, lora, merge, prefix_tuning, prompt_tuning, trainable, vera
from erel_jax.adapters.wrapping import is_kernel
from erel_jax.encoders import ENCODERS, BertConfig, Dinov2Config, VitConfig, bert, dinov2, vit
from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError, NonFiniteError
from erel_jax.interop.peft_folder import CONFIG, WEIGHTS, load_adapter, save_adapter
from erel_jax.layers.kernels import LowRank

ENCODER = bert(BertConfig.tiny("pooler"))
SPEC = ENCODER.module.spec
WRAPS = {
    "lora": lambda spec: lora(spec, [".*/query/kernel", "pooler/kernel"], rank=3, alpha=2.5),
    "rslora": lambda spec: lora(spec, trainable.LORA_TARGETS, rank=4, alpha=8.0, rank_stabilized=True),
    "dora": lambda spec: dora(spec, [".*/mlp/(up|down)/kernel"], rank=2, alpha=3.0),
    "ia3": ia3,
}


def drawn(spec, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape).astype(np.float32)), spec)


PARAMS = drawn(SPEC)


def adapted(name):
    return module.fill(None, drawn_spec(WRAPS[name](SPEC)), PARAMS)  # type: ignore


def drawn_spec(spec):
    """The spec with initializers that draw without a key, so that filling compiles nothing."""
    draw = np.random.default_rng(5)

    def init(key, shape, dtype):
        return jnp.asarray(draw.normal(size=shape).astype(np.float32))

    return jax.tree.map(lambda s: module.ParamSpec(s.shape, s.axes, init), spec)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    monkeypatch.setattr(module, "parameter_key", lambda key, path: None)


@pytest.mark.parametrize("name", WRAPS)
def test_what_is_written_reads_back(tmp_path, name):
    params = adapted(name)
    folder = save_adapter(tmp_path / "a", ENCODER, params, rank_stabilized=name == "rslora", base_model="x/y")
    back = load_adapter(folder, ENCODER, PARAMS)
    for path, leaf in tree.paths(params).items():
        np.testing.assert_allclose(tree.paths(back)[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)
    config = json.loads((folder / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "x/y"
    if name != "ia3":
        assert jax.tree.structure(back) == jax.tree.structure(params)
        assert config["lora_alpha"] == {"lora": 2.5, "rslora": 8, "dora": 3}[name]
        assert config["use_dora"] == (name == "dora") and config["use_rslora"] == (name == "rslora")


def test_names_and_layout_are_those_of_peft(tmp_path):
    folder = save_adapter(tmp_path / "a", ENCODER, adapted("lora"))
    tensors = load_file(folder / WEIGHTS)
    name = "base_model.model.encoder.layer.2.attention.self.query.lora_A.weight"
    np.testing.assert_array_equal(tensors[name], adapted("lora")["layers"]["attention"]["query"]["kernel"].a[2].T)
    assert tensors["base_model.model.pooler.dense.lora_B.weight"].shape == (16, 3)
    target = json.loads((folder / CONFIG).read_text())["target_modules"]
    names = ["encoder.layer.11.attention.self.query", "bert.pooler.dense", "encoder.layer.0.attention.self.key"]
    chosen = tree.select(names, [target])
    assert chosen == set(names[:2])


def edited(folder, tensors=None, **config):
    """The folder as another tool would have left it: without our manifest."""
    (folder / "manifest.json").unlink(missing_ok=True)
    document = json.loads((folder / CONFIG).read_text()) | config
    (folder / CONFIG).write_text(json.dumps(document))
    if tensors is not None:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / WEIGHTS)
    return folder


@pytest.fixture
def folder(tmp_path):
    return save_adapter(tmp_path / "adapter", ENCODER, adapted("rslora"), rank_stabilized=True)


def test_everything_that_does_not_fit_is_in_one_report(folder):
    tensors = load_file(folder / WEIGHTS)
    query = "base_model.model.encoder.layer.{}.attention.self.query.lora_{}.weight"
    del tensors[query.format(1, "A")]
    tensors[query.format(0, "B")] = np.zeros((17, 4), np.float32)
    tensors["base_model.model.encoder.layer.9.attention.self.query.lora_A.weight"] = np.zeros((4, 16), np.float32)
    tensors["base_model.model.encoder.layer.0.attention.self.value.lora_magnitude_vector"] = np.zeros(16, np.float32)
    with pytest.raises(CheckpointError) as error:
        load_adapter(edited(folder, tensors), ENCODER, PARAMS)
    text = str(error.value)
    assert "missing (1)" in text and "layers/attention/query/kernel[1] lora_A.weight" in text
    assert "misshaped (1)" in text and "got [17, 4], expected [16, 4]" in text
    assert "without a place (2)" in text and "layer.9" in text and "lora_magnitude_vector" in text


def test_another_base_is_refused(folder):
    other = bert(BertConfig(vocabulary=8, width=24, layers=3, heads=2, mlp_width=8, max_positions=8))
    with pytest.raises(CheckpointError, match=r"misshaped \(12\)(.|\n)*got \[4, 16\], expected \[4, 24\]"):
        load_adapter(folder, other, module.abstract(other.module.spec))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"peft_type": "IA4"}, "Did you mean 'IA3'"),
        ({"bias": "all", "rank_pattern": {"query": 2}}, r"bias='all', rank_pattern=.* not supported"),
        ({"modules_to_save": ["classifier"]}, "modules_to_save"),
        ({"r": "4"}, "expected two numbers"),
        ({"use_dora": True}, r"missing \(6\)"),
        ({"r": True}, "r=True"),
        ({"lora_alpha": True}, "lora_alpha=True"),
        ({"use_rslora": "false"}, "use_rslora='false', expected true or false"),
        *(
            ({"init_lora_weights": start}, f"'{start}'.*path_initial_model_for_weight_conversion")
            for start in ("pissa", "pissa_niter_4", "OLoRA", "corda", "lora_ga", "loftq")
        ),
    ],
)
def test_options_that_change_the_function_are_refused(folder, config, match):
    with pytest.raises(CheckpointError, match=match):
        load_adapter(edited(folder, **config), ENCODER, PARAMS)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "orthogonal", "eva"])
def test_initializations_that_leave_the_base_alone_are_read(folder, start):
    read = load_adapter(edited(folder, init_lora_weights=start), ENCODER, PARAMS)
    assert any(isinstance(kernel, LowRank) for kernel in tree.paths(read, is_leaf=is_kernel).values())


ONE_LAYER = [
    {"layers_to_transform": [1], "target_modules": ["query", "value"]},
    {"layers_to_transform": 1, "target_modules": ["query", "value"]},
    {"target_modules": r".*layer\.1\.attention\.self\.(query|value)"},
    {"target_modules": ["layer.1.attention.self.query", "layer.1.attention.self.value"]},
    {"target_modules": ["query", "value"], "exclude_modules": r".*\.[02]\..*"},
]


@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("config", ONE_LAYER, ids=str)
def test_layers_without_an_adapter_stay_as_they_are(tmp_path, name, config):
    wrap = {"dora": lambda spec: dora(spec, trainable.LORA_TARGETS, rank=2), "ia3": WRAPS["ia3"]}
    wrap = wrap.get(name, WRAPS["rslora"])
    params = module.fill(None, drawn_spec(wrap(SPEC)), PARAMS)  # type: ignore
    folder = save_adapter(tmp_path / "a", ENCODER, params)
    if name == "ia3":
        config = {**config, "target_modules": r".*layer\.1\..*", "layers_to_transform": None}
    tensors = {key: array for key, array in load_file(folder / WEIGHTS).items() if ".layer.1." in key}
    back = load_adapter(edited(folder, tensors, **config), ENCODER, PARAMS)
    found, plain = merge(back)["layers"], PARAMS["layers"]
    for path, leaf in tree.paths(merge(params)["layers"]).items():
        np.testing.assert_allclose(tree.paths(found)[path][1], leaf[1], rtol=1e-5, atol=1e-5)
        for i in (0, 2):
            np.testing.assert_allclose(tree.paths(found)[path][i], tree.paths(plain)[path][i], rtol=1e-5, atol=1e-6)
    with pytest.raises(CheckpointError, match="missing"):
        load_adapter(
            edited(folder, target_modules=None, layers_to_transform=None, exclude_modules=None), ENCODER, PARAMS
        )


@pytest.mark.parametrize(("modules", "match"), [("(query", "no regular expression"), (5, "expected a list")])
def test_targets_that_name_nothing_are_refused(folder, modules, match):
    tensors = {key: array for key, array in load_file(folder / WEIGHTS).items() if ".layer.1." in key}
    with pytest.raises(CorruptArtifactError, match=match):
        load_adapter(edited(folder, tensors, target_modules=modules), ENCODER, PARAMS)


def test_adapters_of_an_unused_pooler_are_ignored(tmp_path):
    folder = save_adapter(tmp_path / "a", ENCODER, adapted("lora"))
    params = {path: leaf for path, leaf in PARAMS.items() if path != "pooler"}
    back = load_adapter(folder, bert(BertConfig.tiny("mean")), params)
    assert jax.tree.structure(back["layers"]) == jax.tree.structure(adapted("lora")["layers"])
    tensors = {key: array for key, array in load_file(folder / WEIGHTS).items() if "pooler" in key}
    with pytest.raises(CheckpointError, match="no adapter of a layer that the encoder uses"):
        load_adapter(edited(folder, tensors), bert(BertConfig.tiny("mean")), params)


OLD = {"query": "attention.attention.query", "key": "attention.attention.key", "value": "attention.attention.value"}
ATTENTION = {"query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj"}
VIT = ("layers.{}.", "mlp.fc1", "mlp.fc2")
MODULES = {
    "vit": VIT,
    "deit": VIT,
    "beit": VIT,
    "audio-spectrogram-transformer": VIT,
    "dinov2": ("encoder.layer.{}.", "mlp.fc1", "mlp.fc2"),
    "dinov2_with_registers": ("encoder.layer.{}.", "mlp.fc1", "mlp.fc2"),
}


@pytest.mark.parametrize("kind", MODULES)
def test_modules_have_their_names_in_memory_and_old_ones_are_read(tmp_path, kind):
    config = ENCODERS[kind].config.tiny()
    gated = {"gated": False} if kind.startswith("dinov2") else {}
    encoder = ENCODERS[kind].build(dataclasses.replace(config, **gated))
    params = drawn(encoder.module.spec)
    spec = lora(encoder.module.spec, [".*/(query|key|value|up|down)/kernel", ".*/attention/output/kernel"], rank=2)
    whole = module.fill(None, drawn_spec(spec), params)  # type: ignore
    folder = save_adapter(tmp_path / "a", encoder, whole)
    tensors = load_file(folder / WEIGHTS)
    layer, up, down = MODULES[kind]
    new = [*ATTENTION.values(), "attention.o_proj", up, down]
    assert {name.split(".lora_")[0] for name in tensors} == {
        f"base_model.model.{layer.format(i)}{name}" for i in range(encoder.layers) for name in new
    }
    renamed = {}
    for name, array in tensors.items():
        for part, old in OLD.items():
            name = name.replace(ATTENTION[part], old)
        name = name.replace("attention.o_proj", "attention.output.dense")
        if layer == VIT[0]:
            name = name.replace(".layers.", ".encoder.layer.").replace(up, "intermediate.dense")
            name = name.replace(down, "output.dense")
        renamed[name] = array
    for stored in (tensors, renamed):
        back = load_adapter(edited(folder, stored), encoder, params)
        jax.tree.map(np.testing.assert_array_equal, back, whole)


def test_modules_that_peft_does_not_have_are_not_written(tmp_path):
    """Gated DINOv2 has two modules where the checkpoint has one tensor, SigLIP's head a whole attention."""
    gated = dinov2(dataclasses.replace(Dinov2Config.tiny(), gated=True))
    siglip = ENCODERS["siglip_vision_model"].build(ENCODERS["siglip_vision_model"].config.tiny())
    for encoder, target in ((gated, ".*/gate_up/kernel"), (siglip, "head/attention/input/kernel")):
        with pytest.raises(ConfigError, match="no plain linear layer"):
            save_adapter(tmp_path / "a", encoder, lora(encoder.module.spec, [target], rank=2))


def test_pickles_links_and_damage_are_refused(folder, tmp_path):
    edited(folder)
    weights = folder / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:40])
    with pytest.raises(CorruptArtifactError, match="damaged"):
        load_adapter(folder, ENCODER, PARAMS)
    weights.unlink()
    with pytest.raises(CheckpointError, match="has no adapter_model"):
        load_adapter(folder, ENCODER, PARAMS)
    (folder / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin.*can run code"):
        load_adapter(folder, ENCODER, PARAMS)
    outside = tmp_path / "elsewhere.safetensors"
    outside.write_bytes(content)
    os.symlink(outside, weights)
    with pytest.raises(CorruptArtifactError, match="leads out"):
        load_adapter(folder, ENCODER, PARAMS)
    with pytest.raises(CheckpointError, match="has no adapter_config"):
        load_adapter(tmp_path, ENCODER, PARAMS)


def test_a_changed_byte_of_our_folder_is_found(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CorruptArtifactError):
        load_adapter(folder, ENCODER, PARAMS)


def test_nan_is_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="holds NaN"):
        load_adapter(edited(folder, tensors), ENCODER, PARAMS)


def test_nan_is_not_written(tmp_path):
    params = jax.tree.map(lambda x: x * np.nan, adapted("lora"))
    with pytest.raises(NonFiniteError, match="lora_A"):
        save_adapter(tmp_path / "adapter", ENCODER, params)
    assert not (tmp_path / "adapter").exists()


def test_what_cannot_be_written(tmp_path):
    for params, match in (
        (PARAMS, "no adapter to save"),
        (houlsby(SPEC, bottleneck=2), r"got adapters \['Bottleneck'\]"),
        (lora(lora(SPEC, [".*/query/kernel"], rank=2), [".*/key/kernel"], rank=3), r"\(rank, scale\) \[\(2"),
        (lora(lora(SPEC, [".*/key/kernel"], rank=2), [".*/key/kernel"], rank=2), "no plain linear layer"),
        (ia3(ia3(SPEC), [".*/mlp/down/kernel"], []), "no plain linear|not both"),
    ):
        with pytest.raises(ConfigError, match=match):
            save_adapter(tmp_path / "a", ENCODER, params)
    with pytest.raises(ConfigError, match="expected a plain kernel"):
        folder = save_adapter(tmp_path / "b", ENCODER, adapted("lora"))
        load_adapter(folder, ENCODER, adapted("lora"))


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_prompts_and_prefixes_read_back(tmp_path, factor, monkeypatch):
    """Gemma multiplies token embeddings by a factor, and peft puts its prompts behind that."""
    monkeypatch.setattr(BertConfig, "embedding_factor", factor, raising=False)
    prompt = {**PARAMS, "prompt": drawn(prompt_tuning(SPEC, tokens=3)["prompt"], 1)}
    prefix = {**PARAMS, "prefix": drawn(prefix_tuning(SPEC, tokens=2)["prefix"], 1)}
    for name, params in (("prompt", prompt), ("prefix", prefix)):
        folder = save_adapter(tmp_path / name, ENCODER, params, base_model="x/y")
        back = load_adapter(folder, ENCODER, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), back, params)
    stored = load_file(tmp_path / "prompt" / WEIGHTS)["prompt_embeddings"]
    np.testing.assert_allclose(stored, factor * prompt["prompt"]["vectors"], rtol=1e-6)
    # Key and value of layer 0, of layer 1 …
    stored = load_file(tmp_path / "prefix" / WEIGHTS)["prompt_embeddings"]
    np.testing.assert_array_equal(stored[:, 48:64], prefix["prefix"]["value"][1])
    config = json.loads((tmp_path / "prefix" / CONFIG).read_text())
    assert (config["num_layers"], config["token_dim"], config["num_virtual_tokens"]) == (3, 16, 2)
    with pytest.raises(ConfigError, match="have a prompt already"):
        load_adapter(tmp_path / "prompt", ENCODER, prompt)
    with pytest.raises(ConfigError, match="holds one kind"):
        save_adapter(tmp_path / "c", ENCODER, {**prompt, **prefix})
    with pytest.raises(ConfigError, match="holds one kind"):
        save_adapter(tmp_path / "c", ENCODER, {**adapted("lora"), "prompt": prompt["prompt"]})
    image = vit(VitConfig.tiny())
    for call in (
        lambda: load_adapter(tmp_path / "prompt", image, {}),
        lambda: save_adapter(tmp_path / "c", image, prompt),
    ):
        with pytest.raises(ConfigError, match="reads image"):
            call()


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({}, {"prompt_embeddings": np.zeros((3, 12), np.float32)}, r"got \[3, 12\], expected \[3, 16\]"),
        ({"num_virtual_tokens": 4}, {}, r"got \[3, 16\], expected \[4, 16\]"),
        ({}, {"more": np.zeros(3, np.float32)}, "'more'"),
        ({"num_transformer_submodules": 2}, {}, "single stack"),
        ({"peft_type": "PREFIX_TUNING"}, {}, r"expected \[3, 96\]"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(tmp_path, changes, tensors, message):
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, **changes}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save_file({"prompt_embeddings": np.zeros((3, 16), np.float32), **tensors}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(tmp_path, ENCODER, PARAMS)


def test_vera_shares_one_pair_of_factors(tmp_path):
    spec = vera(SPEC, [".*/query/kernel", ".*/mlp/(up|down)/kernel"], rank=3)
    fixed = {path: s.init(None, s.shape, s.dtype) for path, s in tree.paths(spec).items() if path[-2:] in ("/a", "/b")}
    params = module.fill(None, drawn_spec(spec), PARAMS)  # type: ignore
    own = tree.map_with_path(lambda path, leaf: fixed.get(path, leaf), params)
    folder = save_adapter(tmp_path / "a", ENCODER, own)
    stored = load_file(folder / WEIGHTS)
    # As large as the largest kernel needs: 32 inputs of `down`, 32 outputs of `up`.
    assert stored["base_model.vera_A"].shape == (3, 32) and stored["base_model.vera_B"].shape == (32, 3)
    jax.tree.map(np.testing.assert_array_equal, load_adapter(folder, ENCODER, PARAMS), own)
    with pytest.raises(ConfigError, match="not those of the other kernels"):
        save_adapter(tmp_path / "b", ENCODER, params)
    small = {**stored, "base_model.vera_A": stored["base_model.vera_A"][:, :16].copy()}
    for tensors, message in (
        (small, r"too small for \[32, 16\]"),
        ({name: x for name, x in stored.items() if "lambda" in name}, "save_projection=True"),
    ):
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / CONFIG).write_text((folder / CONFIG).read_text())
        save_file(tensors, tmp_path / "c" / WEIGHTS)
        with pytest.raises(CheckpointError, match=message):
            load_adapter(tmp_path / "c", ENCODER, PARAMS)
