"""Exported folders load here with equal outputs and appear whole or not at all."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.artifacts import verify_manifest
from erel_jax.encoders import ENCODERS, BertConfig, ClipTextConfig, ClipVisionConfig, Gemma3Config, VitConfig
from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError, NonFiniteError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.huggingface import load_encoder
from erel_jax.interop.image_processor import vit_settings
from erel_jax.interop.tokenizer import read_tokenizer
from erel_jax.layers import Precision

CONFIGS = [
    BertConfig.tiny("cls"),
    BertConfig.tiny("pooler"),
    BertConfig.tiny("mean"),
    VitConfig.tiny(),
    ClipTextConfig.tiny(),
    ClipTextConfig(vocabulary=20, width=8, layers=1, heads=2, mlp_width=8, eos_id=19, projection=None),
    ClipVisionConfig.tiny(),
    ClipVisionConfig(image_size=8, patch=4, width=8, layers=1, heads=2, mlp_width=8, projection=None),
]


def made(config, precision=None):
    family = next(f for f in ENCODERS.values() if isinstance(config, f.config))
    encoder = family.build(config, precision or Precision())
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: jax.numpy.asarray(draw.normal(size=s.shape).astype(np.float32) * 0.3).astype(s.dtype),
        encoder.module.spec,
    )
    return encoder, params


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{type(c).__name__}-{getattr(c, 'pooling', c.width)}")
def test_round_trip(config, tmp_path):
    encoder, params = made(config)
    loaded = load_encoder(save_encoder(tmp_path / "model", encoder, params))
    assert loaded.encoder.config == config
    for path, value in tree.paths(params).items():
        np.testing.assert_array_equal(tree.paths(loaded.params)[path], value, err_msg=path)


def test_preprocessing_travels_with_the_weights(tmp_path, bert_folder):
    encoder, params = made(BertConfig.tiny("mean"))
    tokenizer = read_tokenizer(bert_folder[0], max_positions=24, vocabulary=64)
    assert tokenizer is not None
    loaded = load_encoder(save_encoder(tmp_path / "text", encoder, params, tokenizer_json=tokenizer.to_json()))
    np.testing.assert_array_equal(loaded.text_inputs(["red shoes"])["ids"], tokenizer.encode(["red shoes"])["ids"])
    encoder, params = made(VitConfig.tiny())
    loaded = load_encoder(save_encoder(tmp_path / "image", encoder, params, preprocessor=vit_settings(12)))
    assert loaded.image_inputs(np.zeros((1, 5, 6, 3), np.uint8))["pixels"].shape == (1, 12, 12, 3)


def test_bfloat16_parameters_are_stored_as_they_are(tmp_path):
    encoder, params = made(VitConfig.tiny(), Precision(param=jax.numpy.bfloat16))
    folder = save_encoder(tmp_path / "half", encoder, params)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = load_encoder(folder, precision=Precision(param=jax.numpy.bfloat16))
    for path, value in tree.paths(params).items():
        np.testing.assert_array_equal(tree.paths(loaded.params)[path], value)


def test_the_folder_is_an_artifact(tmp_path):
    encoder, params = made(VitConfig.tiny())
    folder = save_encoder(tmp_path / "model", encoder, params)
    assert set(verify_manifest(folder, kind="encoder").files) == {"config.json", "model.safetensors"}
    with pytest.raises(ConfigError, match="exists already"):
        save_encoder(folder, encoder, params)
    save_encoder(folder, encoder, params, overwrite=True)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_one_flipped_byte_is_noticed(tmp_path, file):
    encoder, params = made(VitConfig.tiny())
    path = save_encoder(tmp_path / "model", encoder, params) / file
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=file):
        load_encoder(tmp_path / "model")


def test_a_manifest_of_another_tool_is_left_alone(tmp_path):
    encoder, params = made(VitConfig.tiny())
    folder = save_encoder(tmp_path / "model", encoder, params)
    (folder / "manifest.json").write_text('{"name": "a web page"}')
    assert load_encoder(folder).encoder.config == encoder.config


def test_a_failed_export_leaves_nothing(tmp_path):
    encoder, params = made(VitConfig.tiny())
    params["layers"]["mlp"]["adapter"] = {"down": np.zeros(3)}
    with pytest.raises(CheckpointError, match="layers/mlp/adapter/down"):
        save_encoder(tmp_path / "model", encoder, params)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"merged_tokens": 1}, "without merging"), ({"heads": 1, "head_width": 8}, "1 heads of width")],
)
def test_what_the_original_cannot_say_is_refused(tmp_path, changes, words):
    encoder, params = made(dataclasses.replace(VitConfig.tiny(), **changes))
    with pytest.raises(ConfigError, match=words):
        save_encoder(tmp_path / "model", encoder, params)
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_are_not_finite_are_not_written(tmp_path):
    encoder, params = made(BertConfig.tiny())
    params["layers"]["mlp"]["up"]["bias"] = params["layers"]["mlp"]["up"]["bias"].at[1, 2].set(np.nan)
    with pytest.raises(NonFiniteError, match=r"layers/mlp/up/bias.* 1 values"):
        save_encoder(tmp_path / "model", encoder, params)
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_of_another_encoder_is_not_written(tmp_path, bert_folder):
    tokenizer = read_tokenizer(bert_folder[0], max_positions=24, vocabulary=64)
    assert tokenizer is not None
    encoder, params = made(dataclasses.replace(BertConfig.tiny(), vocabulary=9))
    with pytest.raises(CheckpointError, match="ids up to 9, the encoder's embedding table has 9 rows"):
        save_encoder(tmp_path / "model", encoder, params, tokenizer_json=tokenizer.to_json())


def test_capped_scores_of_gemma_3_are_not_written(tmp_path):
    encoder, params = made(dataclasses.replace(Gemma3Config.tiny(), score_cap=5.0))
    with pytest.raises(ConfigError, match=r"score_cap=5\.0"):
        save_encoder(tmp_path / "model", encoder, params)
