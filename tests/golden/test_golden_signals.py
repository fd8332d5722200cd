"""Vision, video and audio families against the stored outputs of the original PyTorch models (see make_*.py)."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from erel_jax.interop.export import save_encoder
from erel_jax.interop.huggingface import load_encoder

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """`golden(name)` gives (folder in the Hugging Face layout, arrays of the file)."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            with np.load(HERE / f"{name}.npz", allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            (folder / "config.json").write_text(str(arrays.pop("config")))
            names = [key for key in arrays if key.startswith("weights/")]
            weights = {key.removeprefix("weights/"): np.ascontiguousarray(arrays.pop(key)) for key in names}
            save_file(weights, folder / "model.safetensors")
            made[name] = folder, arrays
        return made[name]

    return make


def run(loaded, inputs, **options):
    with jax.default_matmul_precision("highest"):
        encode = partial(loaded.encoder.module.apply, tokens=True, hidden_states=True, **options)
        return jax.jit(encode)(loaded.params, inputs)


def expect_close(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=TOLERANCE, atol=TOLERANCE)


def test_siglip_text_tower_sees_its_padding(golden):
    folder, arrays = golden("siglip")
    inputs = {"ids": arrays["ids"], "mask": arrays["mask"]}
    out = run(load_encoder(folder, modality="text"), inputs, taps=(0, 3))
    expect_close(out.hidden_states, arrays["text_hidden_states"])
    expect_close(out.tokens, arrays["text_last_hidden_state"])
    expect_close(out.embedding, arrays["text_pooled"])
    expect_close(out.taps, arrays["text_hidden_states"][[0, 3], :, -1].transpose(1, 0, 2))
    np.testing.assert_array_equal(np.asarray(out.mask).sum(1), arrays["mask"].sum(1))


def test_siglip_image_tower(golden):
    folder, arrays = golden("siglip")
    out = run(load_encoder(folder, modality="image"), {"pixels": arrays["pixels"]}, taps=(0, 2))
    expect_close(out.hidden_states, arrays["image_hidden_states"])
    expect_close(out.tokens, arrays["image_last_hidden_state"])
    expect_close(out.embedding, arrays["image_pooled"])
    expect_close(out.taps, arrays["image_hidden_states"][[0, 2]].mean(2).transpose(1, 0, 2))


@pytest.mark.parametrize("name", ["dinov2", "dinov2_gated", "dinov2_registers"])
def test_dinov2_at_the_size_of_its_positions_and_at_another(golden, name):
    folder, arrays = golden(name)
    loaded = load_encoder(folder)
    top = loaded.encoder.layers
    out = run(loaded, {"pixels": arrays["pixels"]}, taps=(top, 1))
    expect_close(out.hidden_states, arrays["hidden_states"])
    expect_close(out.tokens, arrays["last_hidden_state"])
    expect_close(out.embedding, arrays["pooled"])
    expect_close(out.taps, arrays["hidden_states"][[top, 1], :, 0].transpose(1, 0, 2))
    other = run(loaded, {"pixels": arrays["other_pixels"]})
    expect_close(other.hidden_states, arrays["other_hidden_states"])
    expect_close(other.embedding, arrays["other_pooled"])


def test_deit_has_two_first_tokens(golden):
    folder, arrays = golden("deit")
    out = run(load_encoder(folder), {"pixels": arrays["pixels"]}, taps=(0, 3))
    expect_close(out.hidden_states, arrays["hidden_states"])
    expect_close(out.tokens, arrays["last_hidden_state"])
    expect_close(out.embedding, arrays["last_hidden_state"][:, 0])


def test_vit_at_another_size_than_its_positions(golden):
    folder, arrays = golden("vit_resized")
    path = folder / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"erel_jax_image_size": 25}))
    loaded = load_encoder(folder)
    assert loaded.encoder.config.tokens == 26
    out = run(loaded, {"pixels": arrays["pixels"]})
    expect_close(out.hidden_states, arrays["hidden_states"])
    expect_close(out.tokens, arrays["last_hidden_state"])
    again = save_encoder(folder / "again", loaded.encoder, loaded.params)
    assert json.loads((again / "config.json").read_text())["image_size"] == 15
    assert load_encoder(again).encoder.config == loaded.encoder.config


@pytest.mark.parametrize("name", ["deit_resized", "clip_resized", "siglip_resized", "beit_larger", "beit_smaller"])
def test_positions_are_interpolated_to_another_size(golden, name):
    folder, arrays = golden(name)
    size = arrays["pixels"].shape[1]
    path = folder / "config.json"
    document = json.loads(path.read_text())
    trained = document["image_size"]
    path.write_text(json.dumps(document | {"erel_jax_image_size": size}))
    loaded = load_encoder(folder)
    assert (loaded.encoder.config.image_size, loaded.encoder.config.trained_size) == (size, trained)
    out = run(loaded, {"pixels": arrays["pixels"]})
    expect_close(out.hidden_states, arrays["hidden_states"])
    expect_close(out.tokens, arrays["last_hidden_state"])
    expect_close(out.embedding, arrays["pooled"])
    again = save_encoder(folder / "again", loaded.encoder, loaded.params)
    assert json.loads((again / "config.json").read_text())["image_size"] == trained
    assert load_encoder(again).encoder.config == loaded.encoder.config


@pytest.mark.parametrize(("name", "key"), [("videomae", "video"), ("ast", "spectrogram"), ("whisper", "features")])
def test_video_and_audio(golden, name, key):
    folder, arrays = golden(name)
    out = run(load_encoder(folder), {key: arrays[key]}, taps=(0, 2, 3))
    states, final = arrays["hidden_states"], arrays["last_hidden_state"]
    expect_close(out.hidden_states, states)
    expect_close(out.tokens, final)
    expect_close(out.embedding, final.mean(1) if name == "whisper" else arrays["pooled"])
    taps = states[[0, 2, 3]]
    expect_close(out.taps, (taps[:, :, :2] if name == "ast" else taps).mean(2).transpose(1, 0, 2))


@pytest.mark.parametrize("name", ["beit", "beit_shared"])
def test_beit(golden, name):
    folder, arrays = golden(name)
    out = run(load_encoder(folder), {"pixels": arrays["pixels"]}, taps=(0, 2))
    expect_close(out.hidden_states, arrays["hidden_states"])
    expect_close(out.tokens, arrays["last_hidden_state"])
    expect_close(out.embedding, arrays["pooled"])
    expect_close(out.taps, arrays["hidden_states"][[0, 2], :, 0].transpose(1, 0, 2))
