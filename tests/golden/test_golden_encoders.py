"""Every encoder against the stored outputs of the original PyTorch models (see make_encoders.py)."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

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
            weights = {
                key.removeprefix("weights/"): arrays.pop(key) for key in list(arrays) if key.startswith("weights/")
            }
            save_file(
                {key: np.ascontiguousarray(value) for key, value in weights.items()}, folder / "model.safetensors"
            )
            made[name] = folder, arrays
        return made[name]

    return make


def run(loaded, inputs, **options):
    with jax.default_matmul_precision("highest"):
        encode = partial(loaded.encoder.module.apply, tokens=True, hidden_states=True, **options)
        return jax.jit(encode)(loaded.params, inputs)


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("pooling", ["cls", "pooler", "mean"])
def test_bert_states_and_poolings(golden, pooling):
    folder, arrays = golden("bert")
    out = run(load_encoder(folder, pooling=pooling), {"ids": arrays["ids"], "mask": arrays["mask"]}, taps=(0, 2, 3))
    assert_close(out.hidden_states, arrays["hidden_states"])
    assert_close(out.tokens, arrays["last_hidden_state"])
    states, weights = arrays["hidden_states"].astype(np.float64), arrays["mask"][None, :, :, None]
    means = (states * weights).sum(2) / weights.sum(2)
    pooled = means if pooling == "mean" else states[:, :, 0]
    expected = {"cls": pooled[-1], "mean": pooled[-1], "pooler": arrays["pooler_output"]}[pooling]
    assert_close(out.embedding, expected)
    assert_close(out.taps, pooled[[0, 2, 3]].transpose(1, 0, 2))


def test_vit_states_and_embedding(golden):
    folder, arrays = golden("vit")
    out = run(load_encoder(folder), {"pixels": arrays["pixels"]}, taps=(3, 1))
    assert_close(out.hidden_states, arrays["hidden_states"])
    assert_close(out.tokens, arrays["last_hidden_state"])
    assert_close(out.embedding, arrays["last_hidden_state"][:, 0])
    assert_close(out.taps, arrays["hidden_states"][[3, 1], :, 0].transpose(1, 0, 2))


def test_clip_text_tower(golden):
    folder, arrays = golden("clip")
    out = run(load_encoder(folder, modality="text"), {"ids": arrays["ids"], "mask": arrays["mask"]}, taps=(0, 3))
    assert_close(out.hidden_states, arrays["text_hidden_states"])
    assert_close(out.tokens, arrays["text_last_hidden_state"])
    assert_close(out.embedding, arrays["text_projected"])
    ends = arrays["mask"].sum(1) - 1
    assert_close(out.taps, arrays["text_hidden_states"][[0, 3]][:, np.arange(3), ends].transpose(1, 0, 2))


def test_clip_image_tower(golden):
    folder, arrays = golden("clip")
    out = run(load_encoder(folder, modality="image"), {"pixels": arrays["pixels"]}, taps=(0, 2))
    assert_close(out.hidden_states, arrays["image_hidden_states"])
    assert_close(out.tokens, arrays["image_last_hidden_state"])
    assert_close(out.embedding, arrays["image_projected"])
    assert_close(out.taps, arrays["image_hidden_states"][[0, 2], :, 0].transpose(1, 0, 2))


def test_clip_tower_saved_without_projection_gives_the_pooled_state(golden, tmp_path):
    from safetensors.numpy import load_file

    folder, arrays = golden("clip")
    whole = load_file(folder / "model.safetensors")
    text = {k.removeprefix("text_model."): v for k, v in whole.items() if k.startswith("text_model.")}
    save_file(text, tmp_path / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())["text_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_encoder(tmp_path)
    out = run(loaded, {"ids": arrays["ids"], "mask": arrays["mask"]})
    assert loaded.encoder.embedding_width == 12
    assert_close(out.embedding, arrays["text_pooled"])


@pytest.mark.parity
def test_minilm_sentences(minilm_folder):
    with np.load(HERE / "minilm.npz", allow_pickle=False) as file:
        sentences, expected = [str(s) for s in file["sentences"]], file["embeddings"]
    loaded = load_encoder(minilm_folder)
    inputs = loaded.text_inputs(sentences, buckets=(64, 256))
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(loaded.encoder.module.apply)(loaded.params, inputs).embedding)
    cosine = (ours * expected).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() >= 0.9999
    np.testing.assert_allclose(ours, expected, atol=1e-4)
