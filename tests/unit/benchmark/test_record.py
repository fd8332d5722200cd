"""Records: strict JSON, one reason per null, errors that name file and line."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erel_jax.benchmark.record import (
    NOT_FOR_FLOORS,
    NOT_RECORDED,
    NOT_SUMMARIZED,
    NOT_TRAINED,
    SCHEMA_VERSION,
    Record,
    append_record,
    read_records,
    write_records,
)
from erel_jax.errors import ConfigError, DataError

ENVIRONMENT = {
    "python": "3.11.7",
    "jax": "0.10.2",
    "package_version": "0.1.0",
    "commit": "0123abc",
    "device": "cpu",
    "cpu": "test",
    "cores": 2,
    "os": "Linux",
    "precision": "float32",
}

FLOOR: dict[str, Any] = {
    "task": "retrieval",
    "data": "toy",
    "method": "popularity",
    "kind": "floor",
    "seed": 0,
    "metrics": {"recall@10": 0.25},
    "command": "erel bench --task retrieval",
    "environment": ENVIRONMENT,
    "trainable_parameters": 0,
    "total_parameters": 0,
    "peak_bytes": 1000,
    "peak_bytes_source": "peak RSS",
    "encode_items_per_second": 10.0,
    "query_seconds_p50": 0.001,
    "query_seconds_p99": 0.002,
    "bytes_per_item": 8,
    "unavailable": {"energy_joules": "no counter"},
}

LEARNED: dict[str, Any] = FLOOR | {
    "method": "lora",
    "kind": "learned",
    "trainable_parameters": 10,
    "total_parameters": 100,
    "train_seconds": 1.5,
    "train_step_seconds": 0.01,
    "train_flops_per_step": 2e9,
}


def record(**changes):
    return Record(**(LEARNED | changes))


def test_round_trip_keeps_every_field():
    original = record(
        loss_history=((0, 2.5), (10, 1.25)),
        dropped={"short users": 3},
        notes=("one",),
        validation_metrics={"recall@10": 0.5},
        learning_rate=1e-3,
        headline_metric="recall@10",
    )
    line = original.to_json()
    assert "\n" not in line and line.isascii()
    assert list(json.loads(line))[:3] == ["schema_version", "task", "data"]
    assert Record.from_json(line) == original


def test_reasons_that_follow_from_the_kind_are_filled_in():
    floor = Record(**FLOOR)
    assert floor.unavailable["train_seconds"] == NOT_TRAINED
    assert floor.unavailable["tpme"] == NOT_FOR_FLOORS
    assert record().unavailable["tpme"] == NOT_SUMMARIZED
    assert record().unavailable["epochs"] == NOT_RECORDED
    assert record().unavailable["energy_joules"] == "no counter"


def test_a_value_filled_in_later_drops_an_automatic_reason_only():
    later = dataclasses.replace(record(), epochs=3)
    assert later.epochs == 3 and "epochs" not in later.unavailable
    with pytest.raises(ConfigError, match="'energy_joules', which is not null"):
        dataclasses.replace(record(), energy_joules=5.0)


def test_every_null_of_a_line_has_a_reason():
    for built in (record(), Record(**FLOOR)):
        values = json.loads(built.to_json())
        nulls = {name for name, value in values.items() if value is None}
        assert nulls == set(values["unavailable"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_seconds": None}, "train_seconds=None without a reason"),
        ({"train_seconds": 0}, "expected more"),
        ({"train_seconds": math.nan}, "finite number >= 0"),
        ({"peak_bytes": -1}, "peak_bytes=-1"),
        ({"trainable_parameters": 1.5}, "expected an integer"),
        ({"trainable_parameters": True}, "of type bool"),
        ({"trainable_parameters": 101}, "101 trainable parameters and 100 in total"),
        ({"query_seconds_p50": 0.003}, "p50 <= p99"),
        ({"metrics": {"recall@10": 47.0}}, "divide percentages by 100"),
        ({"metrics": {"recall@10": math.inf}}, "finite"),
        ({"metrics": {"recall@10": None}}, r"metrics.recall@10=None without a reason"),
        ({"headline_metric": "recall@1"}, "Did you mean 'recall@10'"),
        ({"kind": "leaned"}, "Did you mean 'learned'"),
        ({"seed": "0"}, "seed='0'"),
        ({"command": ""}, "command=''"),
        ({"environment": {"python": "3.11"}}, "without jax, package_version"),
        ({"environment": ENVIRONMENT | {"commit": None}}, "environment.commit=None without a reason"),
        ({"unavailable": {"energy_joules": "no counter", "peak_bytes": "x"}}, "'peak_bytes', which is not null"),
        ({"unavailable": {"energy_joules": ""}}, "expected a sentence"),
        ({"loss_history": ((1, math.nan),)}, "finite loss"),
        ({"dropped": {"users": -1}}, "dropped.users"),
        ({"peak_bytes_source": 7}, "expected text"),
        ({"schema_version": "0"}, "this version writes '1'"),
    ],
)
def test_impossible_records_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        record(**changes)


def test_numpy_scalars_become_plain_numbers():
    built = record(
        trainable_parameters=np.int64(7), train_seconds=np.float32(0.5), metrics={"recall@10": np.float64(0.125)}
    )
    values = json.loads(built.to_json())
    assert (values["trainable_parameters"], values["train_seconds"]) == (7, 0.5)
    assert values["metrics"] == {"recall@10": 0.125}


def test_unknown_fields_are_ignored_and_missing_new_ones_filled_in():
    values = json.loads(record().to_json())
    values["invented_later"] = {"a": 1}
    del values["epochs"], values["unavailable"]["epochs"]
    assert Record.from_json(json.dumps(values)) == record()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"schema_version": "2"}', "schema version '2', expected '1'"),
        ('{"task": "retrieval"}', "schema version None"),
        ("[1, 2]", "a JSON list"),
        ('{"schema_version": ', "not strict JSON"),
        ('{"schema_version": "1", "seed": NaN}', "NaN is not JSON"),
        ('{"schema_version": "1"}', "missing 8 required"),
    ],
)
def test_broken_lines_name_file_and_line(tmp_path, line, message):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{record().to_json()}\n\n{line}\n")
    with pytest.raises(DataError, match=rf"records\.jsonl, line 3: .*{message}"):
        read_records(path)


def test_wrong_types_inside_a_line_are_data_errors(tmp_path):
    path = tmp_path / "records.jsonl"
    for field, value in (("metrics", 3), ("environment", []), ("loss_history", [5]), ("unavailable", "x")):
        values = json.loads(record().to_json()) | {field: value}
        path.write_text(json.dumps(values))
        with pytest.raises(DataError, match="line 1"):
            read_records(path)


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_records(tmp_path / "records.jsonl")
    (tmp_path / "records.jsonl").write_bytes(b"\n")
    with pytest.raises(DataError, match="holds no records"):
        read_records(tmp_path / "records.jsonl")
    (tmp_path / "records.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="line 1"):
        read_records(tmp_path / "records.jsonl")


def test_write_and_append(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [record(seed=0), record(seed=1)])
    append_record(path, record(seed=2))
    assert [r.seed for r in read_records(path)] == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]


def test_the_schema_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "records.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
    assert documented == {field.name for field in dataclasses.fields(Record)} | set(ENVIRONMENT)
    assert f'`"{SCHEMA_VERSION}"`' in text
