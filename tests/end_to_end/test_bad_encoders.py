"""Encoders and stored states that do not belong together: the exit code, one message with both sides, no traceback."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from erel_jax import module
from erel_jax.benchmark import worker
from erel_jax.encoders import ClipTextConfig, SiglipTextConfig, clip_text, siglip_text
from erel_jax.errors import ErelError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.huggingface import load_encoder
from erel_jax.interop.wordpiece import train_wordpiece

USERS = ("bench", "--task", "recommendation", "--data", "own data/users.tsv", "--items", "own data/items.tsv")


@pytest.fixture
def check_refused(quick, sequences):
    """Expects a text encoder to be refused by `erel bench` and, with the same words, by `load_encoder`."""

    def check(code: int, folder: Path, *says: str) -> None:
        with pytest.raises(ErelError) as caught:
            load_encoder(folder, modality="text")
        result = quick(*USERS, "--text-encoder", folder)
        said = " ".join((result.out + result.err).replace("│", " ").split())
        assert result.code == code, said
        for words in says:
            assert words in str(caught.value) and words in said
        assert "Traceback" not in said

    return check


@pytest.fixture
def copied(encoders, tmp_path):
    """Copies the folder of the text encoder under a new name."""

    def copy(name: str, **changes: object) -> Path:
        folder = shutil.copytree(encoders["text"], tmp_path / name)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
        return folder

    return copy


def test_an_architecture_that_is_not_built_in(check_refused, copied) -> None:
    known = "bert, roberta, xlm-roberta, distilbert"
    check_refused(2, copied("typo", model_type="distillbert"), "'distillbert'", "Did you mean 'distilbert'?", known)
    check_refused(2, copied("far", model_type="zzz"), "unknown model_type 'zzz'. Known:", known, "whisper")
    check_refused(2, copied("without", model_type="absent"), "config.json has no model_type. Known:", known)
    check_refused(2, copied("number", model_type=7), "unknown model_type 7. Known:", known)


def test_weights_with_nan(check_refused, copied) -> None:
    folder = copied("nan")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"][3] = np.nan
    save_file(tensors, folder / "model.safetensors")
    check_refused(5, folder, "'encoder.layer.1.output.dense.bias' holds 1 values that are NaN or infinite")


def test_weights_of_another_model(check_refused, copied) -> None:
    check_refused(4, copied("shallow", num_hidden_layers=1), "unexpected (16)", "encoder.layer.1.output.dense.bias")
    check_refused(
        4, copied("wide", intermediate_size=40), "encoder.layer.0.intermediate.dense.bias: got [32], expected [40]"
    )


def test_a_tokenizer_of_another_model(check_refused, copied) -> None:
    folder = copied("tokens")
    stored = json.loads((folder / "config.json").read_text())["vocab_size"]
    bigger = train_wordpiece([f"word{number} thing{number}" for number in range(stored)], vocabulary=stored + 7)
    (folder / "tokenizer.json").write_text(bigger.to_json())
    rows = f"ids up to {bigger.vocabulary - 1}, the embedding table has {stored} rows"
    assert bigger.vocabulary > stored
    check_refused(4, folder, rows)


def test_tokens_that_the_tokenizer_and_the_configuration_see_differently(check_refused, tmp_path) -> None:
    tokenizer = train_wordpiece(["a red shoe", "a lamp"], vocabulary=40)
    size, pad, end = tokenizer.vocabulary, tokenizer.pad_id, tokenizer.end_id
    assert end is not None and end != size - 1
    ends = ClipTextConfig(vocabulary=size, width=16, layers=1, heads=2, mlp_width=16, eos_id=size - 1)
    pads = SiglipTextConfig(vocabulary=size, width=16, layers=1, heads=2, mlp_width=16, pad_id=pad + 1)
    made = {
        "end": (clip_text(ends), f"end with token {end}", f"the configuration reads token {size - 1}"),
        "padding": (siglip_text(pads), f"pads with token {pad}", f"the configuration with {pad + 1}"),
    }
    for name, (encoder, *says) in made.items():
        params = module.init(jax.random.key(0), encoder.module.spec)
        save_encoder(tmp_path / name, encoder, params, tokenizer_json=tokenizer.to_json())
        check_refused(4, tmp_path / name, *says, "do not belong together")


def test_stored_states_of_something_else(quick, sequences, encoders, tmp_path, monkeypatch) -> None:
    """States that were put under the name that this run's states would have."""
    whole, options = worker.run_job, (*USERS, "--text-encoder", encoders["text"], "--cache", "cache")
    # Only the jobs that read states; training is tested elsewhere.
    monkeypatch.setattr(worker, "run_job", lambda c, j, *rest: whole(c, j, *rest) if j.kind != "method" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quick(*options, "--out", "first", "--methods", "linear_probe")
    [manifest] = (tmp_path / "cache" / "states").glob("text-pooled-*/manifest.json")
    written = json.loads(manifest.read_text())
    assert {"weights", "tokenizer", "items"} <= set(written["identity"])
    for number, (key, has) in enumerate(written["identity"].items()):
        manifest.write_text(json.dumps({**written, "identity": {**written["identity"], key: "another"}}))
        result = quick(*options, "--out", f"run{number}", "--methods", "linear_probe")
        said = " ".join((result.out + result.err).replace("│", " ").split())
        assert result.code == 4, said
        assert f"{key}: the store has another, this run {has}" in said and "Traceback" not in said
