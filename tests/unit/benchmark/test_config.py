"""Options of a bench run: what is refused, what survives JSON, what a fingerprint covers."""

import dataclasses
from pathlib import Path

import pytest

from erel_jax.benchmark.config import BenchConfig
from erel_jax.errors import ConfigError

FULL = BenchConfig(
    task="recommendation", data="some/users.tsv", items=Path("items.tsv"), images=Path("images.zip"),
    text_encoder="text", image_encoder="image", methods="frozen,lora", seeds=2, epochs=3, batch_size=16,
    seconds_per_method=1.5, precision="float32", out=Path("out"), cache=Path("cache"), fresh=True,
)  # fmt: skip


PAIRS = BenchConfig(data="some/pairs.csv", text_encoder="text", image_encoder="image", batch_size=16)


@pytest.mark.parametrize("field", ["seeds", "epochs", "batch_size", "sub_batch", "seconds_per_method"])
def test_numbers_must_be_above_zero(field):
    for value in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')} got {value}, expected"):
            dataclasses.replace(FULL, **{field: value})


def test_recommendation_needs_data():
    with pytest.raises(ConfigError, match=r"--data.*--items"):
        BenchConfig(task="recommendation")
    assert BenchConfig().task == "retrieval"


@pytest.mark.parametrize(
    ("config", "option", "message"),
    [
        (PAIRS, {"modalities": "text"}, "--modalities belongs to --task recommendation, and this is retrieval"),
        (PAIRS, {"split": "cold"}, "--split belongs to --task recommendation"),
        (PAIRS, {"batch_size": 1}, "--batch-size got 1, expected at least 2"),
        (PAIRS, {"sub_batch": 3}, "--sub-batch got 3, expected a divisor of --batch-size 16"),
        (FULL, {"sub_batch": 8}, "--sub-batch belongs to --task retrieval, and this is recommendation"),
        (FULL, {"image_key": "photo"}, "--image-key belongs to --task retrieval"),
    ],
)
def test_options_must_fit_the_task_and_each_other(config, option, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **option)


def test_names_and_folders():
    assert BenchConfig().data_name == "glyphs"
    assert BenchConfig().out_folder == Path("erel-bench/retrieval-glyphs")
    users = dataclasses.replace(FULL, out=None)
    assert users.data_name == "users" and users.out_folder == Path("erel-bench/recommendation-users")
    assert FULL.out_folder == Path("out")


@pytest.mark.parametrize("config", [BenchConfig(), FULL], ids=["default", "full"])
def test_json_gives_the_same_config_back(config):
    again = BenchConfig.from_json(config.to_json())
    assert again == config
    assert all(isinstance(getattr(again, n), Path | None) for n in ("items", "images", "out", "cache"))


CHANGES = {
    "data": "other.tsv", "items": Path("b"), "images": Path("b"), "text_encoder": "b",
    "image_encoder": "b", "epochs": 4, "batch_size": 32, "seconds_per_method": 2.0, "precision": "bfloat16",
    "state_storage": "int8", "state_placement": "streamed", "modalities": "text", "split": "cold",
}  # fmt: skip
CHANGES_OF_PAIRS = {"sub_batch": 8, "image_key": "photo", "text_key": "title"}
HARMLESS = {"methods": "full", "seeds": 5, "out": Path("b"), "cache": Path("b"), "fresh": False}


def test_fingerprint_covers_what_changes_a_measurement_and_nothing_else():
    names = {field.name for field in dataclasses.fields(BenchConfig)}
    assert CHANGES.keys() | CHANGES_OF_PAIRS.keys() | HARMLESS.keys() | {"task"} == names
    other = BenchConfig(task="recommendation", data="some/pairs.csv")
    assert other.fingerprint() != BenchConfig(data="some/pairs.csv").fingerprint()
    pairs = {dataclasses.replace(PAIRS, **{name: value}).fingerprint() for name, value in CHANGES_OF_PAIRS.items()}
    assert len(pairs | {PAIRS.fingerprint()}) == len(CHANGES_OF_PAIRS) + 1
    changed = {dataclasses.replace(FULL, **{name: value}).fingerprint() for name, value in CHANGES.items()}
    assert len(changed | {FULL.fingerprint()}) == len(CHANGES) + 1
    for name, value in HARMLESS.items():
        assert dataclasses.replace(FULL, **{name: value}).fingerprint() == FULL.fingerprint(), name


def test_keys_of_features_reach_the_reader(monkeypatch, tmp_path):
    from erel_jax.benchmark import retrieval_problem

    given = {}
    monkeypatch.setattr(retrieval_problem, "load_retrieval", lambda *places, **named: given.update(named))
    config = BenchConfig(data="tfds:shop/large", image_key="photo", text_key="captions/text", out=tmp_path)
    retrieval_problem.load_data(config, tmp_path)
    assert (given["image_key"], given["text_key"]) == ("photo", "captions/text")


@pytest.mark.parametrize("data", [".", "./", "..", "below/.."])
def test_a_folder_named_by_dots_has_a_name(data, tmp_path, monkeypatch):
    (tmp_path / "shop" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "shop" / ("below" if data == ".." else "."))
    assert BenchConfig(data=data).data_name == "shop"
