"""The Python blocks of the README and the docs run as they are printed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


def test_readme_has_a_short_library_example():
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    assert len(block.group(1).strip().splitlines()) <= 15


@pytest.fixture
def bench_output(tmp_path, monkeypatch):
    """A working folder that holds what `erel bench` would have left there."""
    from erel_jax.benchmark.record import ENVIRONMENT_KEYS, Record, write_records

    nothing = dict.fromkeys(
        ("peak_bytes", "peak_bytes_source", "encode_items_per_second", "query_seconds_p50", "query_seconds_p99"), "-"
    )
    record = Record(
        task="retrieval",
        data="glyphs",
        method="chance",
        kind="floor",
        seed=0,
        metrics={"recall@10": 0.01},
        command="erel bench",
        environment=dict.fromkeys(ENVIRONMENT_KEYS, "test"),
        trainable_parameters=0,
        total_parameters=0,
        unavailable={**nothing, "bytes_per_item": "-", "energy_joules": "-"},
    )
    folder = tmp_path / "erel-bench" / "retrieval-glyphs"
    folder.mkdir(parents=True)
    write_records(folder / "records.jsonl", [record])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, bench_output):
    scope: dict = {}
    exec(compile(block, "<documentation>", "exec"), scope)
    assert scope
