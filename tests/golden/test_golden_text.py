"""Text families against the stored outputs of the original PyTorch models (see make_text.py)."""

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
            names = [key for key in arrays if key.startswith("weights/")]
            weights = {key.removeprefix("weights/"): np.ascontiguousarray(arrays.pop(key)) for key in names}
            save_file(weights, folder / "model.safetensors")
            made[name] = folder, arrays
        return made[name]

    return make


def pooled(states, mask, pooling):
    """Independent poolings of float[S, B, L, D] in float64."""
    states, weights = states.astype(np.float64), mask[None, :, :, None]
    ends = np.maximum(mask.sum(1) - 1, 0)
    return {
        "cls": lambda: states[:, :, 0],
        "mean": lambda: (states * weights).sum(2) / weights.sum(2),
        "last": lambda: states[:, np.arange(len(ends)), ends],
        "mean_all": lambda: states.mean(2),
    }[pooling]()


def expect_close(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("roberta", "pooler"),
        ("roberta", "mean"),
        ("xlm_roberta", "cls"),
        ("distilbert", "cls"),
        ("distilbert", "mean"),
        ("llama", "mean"),
        ("llama", "last"),
        ("mistral", "last"),
        ("qwen2", "mean"),
        ("qwen3", "cls"),
        ("gemma2", "mean"),
        ("gemma3", "last"),
        ("gpt2", "mean"),
        ("modernbert", "mean"),
        ("modernbert", "cls"),
    ],
)
def test_states_and_poolings(golden, name, pooling):
    folder, arrays = golden(name)
    loaded = load_encoder(folder, pooling=pooling)
    top = loaded.encoder.layers
    encode = partial(loaded.encoder.module.apply, tokens=True, hidden_states=True, taps=(top, 0, top - 1))
    inputs = {"ids": arrays["ids"], "mask": arrays["mask"]}
    with jax.default_matmul_precision("highest"):
        out = jax.jit(encode)(loaded.params, inputs)
    real = arrays["mask"]
    expect_close(np.asarray(out.hidden_states)[:, real], arrays["hidden_states"][:, real])
    expect_close(np.asarray(out.tokens)[real], arrays["last_hidden_state"][real])
    states = pooled(arrays["hidden_states"], arrays["mask"], "cls" if pooling == "pooler" else pooling)
    expect_close(out.embedding, arrays["pooler_output"] if pooling == "pooler" else states[-1])
    expect_close(out.taps, states[[top, 0, top - 1]].transpose(1, 0, 2))
