"""Whole folders: what comes out, which options fit, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from erel_jax import module, tree
from erel_jax.encoders import SiglipTextConfig, WhisperConfig, siglip_text, whisper
from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.huggingface import load_encoder, load_towers
from erel_jax.interop.image_processor import vit_settings
from erel_jax.interop.wordpiece import train_wordpiece
from erel_jax.layers import BFLOAT16


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def expect_same(got, expected):
    expected = tree.paths(expected)
    assert list(tree.paths(got)) == list(expected)
    for path, value in tree.paths(got).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_a_bert_folder(bert_folder):
    folder, encoder, params = bert_folder
    loaded = load_encoder(folder)
    assert loaded.encoder.config == encoder.config
    assert (loaded.source, loaded.revision, loaded.image_processor) == (str(folder), None, None)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded.params))
    expect_same(loaded.params, params)
    inputs = loaded.text_inputs(["red shoes"], max_length=6)
    np.testing.assert_allclose(
        jax.jit(loaded.encoder.module.apply)(loaded.params, inputs).embedding,
        jax.jit(encoder.module.apply)(params, inputs).embedding,
        atol=1e-6,
    )


def test_both_clip_towers(clip_folder):
    folder, towers = clip_folder
    (folder / "preprocessor_config.json").write_text(json.dumps(vit_settings(12)))
    found = load_towers(folder)
    assert sorted(found) == ["image", "text"]
    for modality, (encoder, params) in towers.items():
        for loaded in (found[modality], load_encoder(folder, modality=modality)):
            assert loaded.encoder.config == encoder.config
            expect_same(loaded.params, params)
    assert found["image"].image_inputs(np.zeros((2, 20, 30, 3), np.uint8))["pixels"].shape == (2, 12, 12, 3)
    with pytest.raises(ConfigError, match=r"text states.*preprocessor_config"):
        found["text"].image_inputs([])
    for loaded in found.values():
        with pytest.raises(ConfigError, match=r"states.*tokenizer\.json"):
            loaded.text_inputs(["no tokenizer in this folder"])
    assert found["text"].fingerprint != found["image"].fingerprint
    with pytest.raises(ConfigError, match="modality='text' or 'image'"):
        load_encoder(folder)


def test_a_clip_model_without_its_projection_is_a_missing_weight(clip_folder):
    folder, _ = clip_folder
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \(1\)"):
        load_encoder(folder, modality="text")


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_modality_that_is_not_there_is_named(bert_folder, modality):
    with pytest.raises(ConfigError, match=rf"{modality}.*\['text'\]"):
        load_encoder(bert_folder[0], modality=modality)


def test_pooling_comes_from_the_caller_then_the_folder(bert_folder):
    folder, _, _ = bert_folder
    assert load_encoder(folder).encoder.config.pooling == "cls"
    (folder / "modules.json").write_text(
        json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    assert load_encoder(folder).encoder.config.pooling == "mean"
    assert load_encoder(folder, pooling="cls").encoder.config.pooling == "cls"
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        load_encoder(folder, pooling="means")
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.weight"):
        load_encoder(folder, pooling="pooler")


def test_pooling_is_not_for_clip(clip_folder):
    with pytest.raises(ConfigError, match="only bert"):
        load_encoder(clip_folder[0], modality="text", pooling="mean")


def test_the_fingerprint_follows_whatever_changes_the_states(bert_folder):
    folder, _, _ = bert_folder
    first = load_encoder(folder).fingerprint
    assert load_encoder(folder).fingerprint == first
    prints = {
        first,
        load_encoder(folder, pooling="mean").fingerprint,
        load_encoder(folder, precision=BFLOAT16).fingerprint,
    }
    edit(folder, layer_norm_eps=1e-6)
    prints.add(load_encoder(folder).fingerprint)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, folder / "model.safetensors")
    prints.add(load_encoder(folder).fingerprint)
    assert len(prints) == 5
    assert all(len(value) == 64 for value in prints)


def test_sharded_folders_equal_whole_ones(bert_folder):
    folder, _, params = bert_folder
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {f"model-{i}.safetensors": names[i::3] for i in range(3)}
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    weight_map = {name: file for file, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    expect_same(load_encoder(folder).params, params)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_the_folder_is_refused_and_not_run(bert_folder, file):
    folder, _, _ = bert_folder
    canary = folder / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    document = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps({**document, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(CorruptArtifactError, match="never run"):
        load_encoder(folder)
    assert not canary.exists()


def test_a_tokenizer_of_another_model_is_refused(bert_folder, clip_folder):
    folder, _, _ = bert_folder
    edit(folder, vocab_size=8)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:8].copy()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="embedding table has 8 rows"):
        load_encoder(folder)
    clip, _ = clip_folder
    (clip / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    with pytest.raises(CheckpointError, match="end with token 3, the configuration reads token 63"):
        load_encoder(clip, modality="text")


def test_folders_without_configuration_or_with_a_broken_one(bert_folder):
    folder, _, _ = bert_folder
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptArtifactError, match=r"config\.json"):
        load_encoder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_encoder(folder)


def test_a_config_of_another_size_is_one_report(bert_folder):
    folder, _, _ = bert_folder
    edit(folder, num_hidden_layers=2, type_vocab_size=3)
    with pytest.raises(CheckpointError) as caught:
        load_encoder(folder)
    assert "misshaped (1)" in str(caught.value) and "unexpected (16)" in str(caught.value)


@pytest.mark.parity
def test_the_real_minilm_folder(minilm_folder):
    loaded = load_encoder(minilm_folder)
    config = loaded.encoder.config
    assert (config.pooling, config.layers, config.width) == ("mean", 6, 384)
    assert loaded.text_inputs(["a"])["ids"].shape == (1, 256)
    assert loaded.fingerprint == load_encoder(minilm_folder).fingerprint


def test_a_tokenizer_that_pads_with_another_token_is_refused_where_padding_is_read(tmp_path):
    tokenizer = train_wordpiece(["a red shoe", "a lamp"], vocabulary=40)
    config = dataclasses.replace(SiglipTextConfig.tiny(), vocabulary=tokenizer.vocabulary, pad_id=tokenizer.pad_id + 1)
    encoder = siglip_text(config)
    params = module.init(jax.random.key(0), encoder.module.spec)
    save_encoder(tmp_path / "text", encoder, params, tokenizer_json=tokenizer.to_json())
    with pytest.raises(CheckpointError, match=f"pads with token {tokenizer.pad_id}, the configuration with"):
        load_encoder(tmp_path / "text")


def test_audio_folders_with_settings_of_a_feature_extractor_load(tmp_path):
    encoder = whisper(WhisperConfig.tiny())
    params = module.init(jax.random.key(0), encoder.module.spec)
    folder = save_encoder(tmp_path / "audio", encoder, params)
    (folder / "manifest.json").unlink()
    settings = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    loaded = load_encoder(folder)
    assert loaded.encoder.modality == "audio" and loaded.image_processor is None


def test_a_stored_pooling_that_is_no_name_is_refused(bert_folder):
    path = bert_folder[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"erel_jax_pooling": 5}))
    with pytest.raises(ConfigError, match="erel_jax_pooling = 5"):
        load_encoder(bert_folder[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 10**18}, "word_embeddings.weight with .* numbers, which no file holds"),
        ({"hidden_size": 10**30}, "numbers, which no file holds"),
        ({"num_hidden_layers": 10**9}, "1000000000 layers, .* holds [0-9]+ tensors"),
    ],
)
def test_sizes_beyond_any_file_are_refused(bert_folder, changes, message):
    path = bert_folder[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        load_encoder(bert_folder[0])


@pytest.mark.parametrize("code", [True, 5, ["x"], {"AutoModel": "evil.Model"}])
def test_code_of_any_form_is_refused(bert_folder, code):
    path = bert_folder[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": code}))
    with pytest.raises(CorruptArtifactError, match="never run"):
        load_encoder(bert_folder[0])
