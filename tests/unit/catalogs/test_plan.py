"""A plan that makes no sense is called damaged, and a table that changes under a worker stops it."""

import json

import pytest

from erel_jax.catalogs.plan import PLAN, Plan, check_unchanged, read_plan
from erel_jax.data.catalog_sources import open_source, scan
from erel_jax.errors import CorruptArtifactError, DataError

SOUND = {
    "format": 1,
    "source": {
        "path": "t.csv",
        "images": ".",
        "kind": "csv",
        "columns": {"id": None, "image": None, "text": "text"},
        "fingerprint": "f",
        "rows": 3,
        "size": 9,
        "modified": 0,
    },
    "model": {
        "name": "m",
        "space": "s",
        "tower": "t",
        "modality": "text",
        "width": 4,
        "pooling": None,
        "max_length": 8,
    },
    "options": {"precision": "float32", "prompt": None, "store": "float32", "shard_rows": 2},
    "places": [{"number": 0, "line": 1, "byte": 0}, {"number": 2, "line": 3, "byte": 9}],
}


def test_a_plan_is_read_back(tmp_path):
    (tmp_path / PLAN).write_text(json.dumps(SOUND))
    assert read_plan(tmp_path).shard_rows(1) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"source": {}, "model": {}, "options": {}, "places": []},
        {"source": {**SOUND["source"], "rows": "3"}},
        {"source": {**SOUND["source"], "columns": {}}},
        {"source": {**SOUND["source"], "columns": {"id": None, "image": 3, "text": None}}},
        {"options": {**SOUND["options"], "shard_rows": 0}},
        {"places": []},
        {"model": 5},
    ],
)
def test_a_plan_that_makes_no_sense_is_damage(tmp_path, change):
    (tmp_path / PLAN).write_text(json.dumps(SOUND | change))
    with pytest.raises(CorruptArtifactError, match="cannot be read"):
        read_plan(tmp_path)


def test_a_table_that_changes_is_noticed(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,text\n1,a\n2,b\n")
    source = open_source(table)
    about = {**SOUND["source"], "fingerprint": scan(source, 2).fingerprint}
    plan = Plan(source=about, model={}, options={}, places=())
    table.write_bytes(table.read_bytes())
    check_unchanged(plan, source)  # written again, but with the same content
    for content in ("id,text\n1,a\n", "id,text\n0,z\n1,a\n2,b\n"):
        table.write_text(content)
        with pytest.raises(DataError, match="changed while it was read"):
            check_unchanged(plan, source)
        with pytest.raises(DataError, match="changed while it was read"):
            scan(source, 2)
