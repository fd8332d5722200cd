"""The training script: what it writes, that it goes on exactly, and what it says to mistakes."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from erel_jax.errors import ConfigError, DataError, PreemptedError
from erel_jax.interop.huggingface import load_encoder

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "train_contrastive.py"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.train_contrastive")


def run(folder, *options, environment):
    command = [sys.executable, str(SCRIPT), "--preset", "tiny", "--out", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)


def row_of(done) -> dict:
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.mark.slow
def test_the_tiny_preset_trains_and_writes_two_encoders(plain_environment, tmp_path):
    done = run(tmp_path / "out", environment=plain_environment)
    row = row_of(done)
    assert row["name"] == "clip" and row["steps"] == 8 and row["skipped"] == 0 and row["dropped"] == {}
    for name in ("recall@1", "text_to_image_recall@5", "image_to_text_recall@10"):
        assert 0 <= row[name] <= 1
    for name in ("step_seconds", "items_per_second", "flops_per_step", "peak_bytes"):
        assert row[name] > 0
    assert f"erel bench --text-encoder {tmp_path / 'out' / 'text'} --image-encoder" in done.stderr
    text, image = (load_encoder(tmp_path / "out" / name) for name in ("text", "image"))
    assert text.encoder.embedding_width == image.encoder.embedding_width == 32
    vector = text.encoder.module.apply(text.params, text.text_inputs(["red square number 3"])).embedding
    assert np.isfinite(np.asarray(vector)).all()
    assert load_file(tmp_path / "out" / "head.safetensors")["log_scale"] > 1


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(script, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    options = ["--preset", "tiny", "--precision", "float32", "--cache", str(tmp_path / "cache"), "--out"]
    script.main([*options, str(tmp_path / "whole")])
    shown = script.show

    def stop(progress):
        if progress.step == 5:
            raise PreemptedError("stopped by the test")
        shown(progress)

    monkeypatch.setattr(script, "show", stop)
    with pytest.raises(PreemptedError):
        script.main([*options, str(tmp_path / "parts"), "--checkpoint-every", "3"])
    monkeypatch.setattr(script, "show", shown)
    row = script.main([*options, str(tmp_path / "parts"), "--checkpoint-every", "3"])
    assert row["steps"] == 8
    for name in ("text/model.safetensors", "image/model.safetensors", "head.safetensors"):
        ours, theirs = (load_file(tmp_path / run / name) for run in ("parts", "whole"))
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=key)


@pytest.mark.slow
def test_siglip_in_sub_batches_over_devices_and_lit_beside_the_live_step(plain_environment, tmp_path):
    environment = plain_environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    row = row_of(run(tmp_path / "siglip", "--loss", "siglip", "--sub-batch", "4", environment=environment))
    assert row["name"] == "siglip" and row["devices"] == 4
    assert load_file(tmp_path / "siglip" / "head.safetensors").keys() == {"log_scale", "bias"}
    locked = ["--image-encoder", str(tmp_path / "siglip" / "image"), "--lock", "image"]
    done = run(tmp_path / "lit", *locked, "--compare-live", "--precision", "float32", environment=plain_environment)
    row = row_of(done)
    assert row["name"] == "lit_clip" and row["store_seconds"] > 0
    # A tower of eight steps says nearly the same of all pictures, which magnifies rounding.
    assert row["compared"]["gradient_difference"] < 1e-4 and row["compared"]["flops_ratio"] > 1.02
    before, after = (load_file(tmp_path / run / "image" / "model.safetensors") for run in ("siglip", "lit"))
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--preset", "full"], ConfigError, "--data is missing"),
        (["--batch", "12"], ConfigError, "--batch 12 is not divided by 8 devices"),
        (["--sub-batch", "3"], ConfigError, "Choose a multiple of 24"),
        (["--epochs", "0"], ConfigError, "--epochs is 0"),
        (["--compare-live"], ConfigError, "add --lock image"),
        (["--lock", "image"], ConfigError, "name it with --image-encoder"),
        (["--data", "glyph"], ConfigError, "Did you mean 'glyphs'"),
        (["--data", "absent.csv"], DataError, "no such file"),
        (["--data", "tfds:absent", "--images", "."], ConfigError, "not prepared"),
        (["--text-key", "label"], ConfigError, "--text-key"),
        (["--text-encoder", "/nowhere/absent"], ConfigError, "not a folder"),
        (["--batch", "1600"], ConfigError, "there are 1"),
    ],
)
def test_mistakes_are_named_before_any_work(options, error, message: str, script, tmp_path):
    given = ["--preset", "tiny", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), *options]
    with pytest.raises(error, match=message):
        script.main(given)


def test_a_mistake_is_one_line_and_exit_code_2(plain_environment, tmp_path):
    done = run(tmp_path / "out", "--data", "glyphz", environment=plain_environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Did you mean 'glyphs'" in done.stderr
