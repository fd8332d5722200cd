"""Pooling and lengths from a sentence-transformers folder."""

import json

import pytest

from erel_jax.errors import ConfigError, CorruptArtifactError
from erel_jax.interop.prompts import Prompts
from erel_jax.interop.sentence_transformers import (
    prompt_files,
    read_prompts,
    read_settings,
    settings_files,
    understood,
)

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
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False, "include_prompt": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
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
    [{"pooling_mode_max_tokens": True}, {"pooling_mode": "weightedmean"}, {"pooling_mode": ["cls", "mean"]}, {}],
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


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_written_settings_are_read_back(tmp_path, pooling):
    (tmp_path / "1_Pooling").mkdir()
    for name, content in settings_files(pooling, 16, 24).items():
        (tmp_path / name).write_text(json.dumps(content))
    settings = read_settings(tmp_path)
    assert (settings.pooling, settings.max_length, settings.lowercase) == (pooling, 24, False)
    modes = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert sum(value is True for value in modes.values()) == 1 and modes["pooling_mode_lasttoken"] == (
        pooling == "last"
    )


CONFIG = "config_sentence_transformers.json"


def test_prompts_of_the_library_stand_before_the_text(tmp_path):
    assert read_prompts(tmp_path) == Prompts()
    (tmp_path / CONFIG).write_text(json.dumps({"prompts": {"q": "Query: ", "d": ""}, "default_prompt_name": "q"}))
    found = read_prompts(tmp_path)
    assert found.templates == {"q": "Query: {text}", "d": "{text}"}
    assert (found.around, found.choose("d").around) == (("Query: ", ""), ("", ""))


@pytest.mark.parametrize("default", [None, "query", "sum up"])
def test_written_prompts_are_read_back(tmp_path, default):
    templates = {"query": "Query: {text}", "document": "{text}", "sum up": 'Of "{text}" in one word:"'}
    prompts = Prompts(templates=templates, default=default)
    for name, content in prompt_files(prompts).items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_prompts(tmp_path) == prompts
    document = json.loads((tmp_path / CONFIG).read_text())
    assert document["prompts"] == {"query": "Query: ", "document": ""}
    assert document["default_prompt_name"] == ("query" if default == "query" else None)
    assert understood(prompts) == (default != "sum up")
    assert prompt_files(Prompts()) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"prompts": ["Query: "]}, "expected an object"),
        ({"prompts": {"q": 3}}, "expected a text"),
        ({"prompts": {"q": "before {text}"}}, r"'q'.*once"),
        ({"prompts": {"q": "Query: "}, "default_prompt_name": "query"}, r"'query' is none of the prompts \['q'\]"),
    ],
)
def test_prompts_that_cannot_be_meant_are_corrupt(tmp_path, content, message):
    (tmp_path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(CorruptArtifactError, match=message):
        read_prompts(tmp_path)


def test_pooling_without_the_prompt_is_refused_where_there_is_one(tmp_path):
    write(tmp_path, {"pooling_mode_mean_tokens": True, "include_prompt": False})
    assert read_settings(tmp_path).pooling == "mean"
    (tmp_path / CONFIG).write_text(json.dumps({"prompts": {"query": "Represent this: "}}))
    with pytest.raises(ConfigError, match="include_prompt"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    "limits", [{"max_seq_length": True}, {"max_seq_length": -4}, {"max_seq_length": "8"}, {"do_lower_case": "false"}]
)
def test_limits_of_another_kind_are_refused(tmp_path, limits):
    write(tmp_path, {"pooling_mode": "mean"}, limits=limits)
    with pytest.raises(ConfigError, match=f"{next(iter(limits))} = "):
        read_settings(tmp_path)


def test_a_pooling_that_is_no_name_is_refused(tmp_path):
    write(tmp_path, {"pooling_mode": 5})
    with pytest.raises(ConfigError, match="pools by"):
        read_settings(tmp_path)
