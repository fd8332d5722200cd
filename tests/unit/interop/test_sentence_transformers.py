"""Pooling and lengths from a sentence-transformers folder."""

import json

import pytest

from erel_jax.errors import ConfigError, CorruptArtifactError
from erel_jax.interop.sentence_transformers import read_settings, settings_files

PREFIX = "sentence_transformers.models"


def write(folder, pooling, modules=None, limits=None):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    steps = [("", f"{PREFIX}.Transformer"), ("1_Pooling", f"{PREFIX}.Pooling"), ("2_Normalize", f"{PREFIX}.Normalize")]
    modules = modules or [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(steps)]
    (folder / "modules.json").write_text(json.dumps(modules))
    if limits is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(limits))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"pooling_mode_cls_token": True, "word_embedding_dimension": 3}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
)
def test_both_forms_of_pooling(tmp_path, pooling, expected):
    write(tmp_path, pooling, limits={"max_seq_length": 77, "do_lower_case": True})
    settings = read_settings(tmp_path)
    assert (settings.pooling, settings.max_length, settings.lowercase) == (expected, 77, True)


@pytest.mark.parametrize(
    "pooling",
    [{"pooling_mode_max_tokens": True}, {"pooling_mode": "lasttoken"}, {"pooling_mode": ["cls", "mean"]}, {}],
)
def test_other_poolings_are_refused(tmp_path, pooling):
    write(tmp_path, pooling)
    with pytest.raises(ConfigError, match="pools by"):
        read_settings(tmp_path)


@pytest.mark.parametrize("kind", [f"{PREFIX}.Dense", "evil.Module", "os.system", "evil.Transformer"])
def test_unknown_steps_are_refused_not_imported(tmp_path, kind):
    write(tmp_path, {"pooling_mode": "cls"}, modules=[{"path": "", "type": kind}])
    with pytest.raises(ConfigError, match="step of type"):
        read_settings(tmp_path)


def test_paths_stay_inside(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder, {"pooling_mode": "cls"}, modules=[{"path": "../x", "type": f"{PREFIX}.Pooling"}])
    with pytest.raises(CorruptArtifactError, match="refused"):
        read_settings(folder)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"type": "x"}]', "3"])
def test_a_broken_list_is_corrupt(tmp_path, content):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(CorruptArtifactError, match=r"modules\.json"):
        read_settings(tmp_path)


def test_a_plain_folder_says_nothing(tmp_path):
    settings = read_settings(tmp_path)
    assert (settings.pooling, settings.max_length, settings.lowercase) == (None, None, False)


def test_written_settings_are_read_back(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    for name, content in settings_files("mean", 16, 24).items():
        (tmp_path / name).write_text(json.dumps(content))
    settings = read_settings(tmp_path)
    assert (settings.pooling, settings.max_length, settings.lowercase) == ("mean", 24, False)
