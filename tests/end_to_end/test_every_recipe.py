"""Every recipe of the retrieval task runs on a person's own small data and leaves a whole record; a slow test."""

import pytest

from erel_jax.benchmark.recipes import RECIPES
from erel_jax.benchmark.record import read_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NAMES = list(RECIPES)


@pytest.mark.parametrize("names", [NAMES[start : start + 4] for start in range(0, len(NAMES), 4)], ids=lambda n: n[0])
def test_in_retrieval(quick, pairs, encoders, tmp_path, names) -> None:
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    options = ("--methods", ",".join(names), "--epochs", 2, "--batch-size", 8, "--out", "run")
    done = quick("bench", "--data", pairs, *towers, *options)
    assert done.code == 0, done.out + done.err
    records = {record.method: record for record in read_records(tmp_path / "run" / "records.jsonl")}
    for name in names:
        record = records[name]
        assert record.kind == "learned" and record.recompiles_after_warmup == 0
        assert record.metrics and all(value is not None and 0 <= value <= 1 for value in record.metrics.values())
        assert record.trainable_parameters and record.train_step_seconds and record.train_flops_per_step
    if "lit_cached" in names:
        assert any("the vectors of frozen" in note for note in records["lit_cached"].notes)
    if "semdedup" in names:
        assert (tmp_path / "run" / "selections" / "semdedup-seed0" / "manifest.json").is_file()
