"""`erel bench` on a person's own pictures, texts and encoders, from the command line to the report."""

import re
import time

import pytest

from erel_jax.benchmark.record import read_records


@pytest.mark.slow
def test_from_a_table_of_pictures_to_a_report_and_again(erel, pairs, encoders, tmp_path) -> None:
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    command = ("bench", "--data", pairs, *towers, "--methods", "frozen,lora", "--epochs", "1", "--out", "run")
    begun = time.monotonic()
    sizes = ("--batch-size", "8", "--sub-batch", "4")
    first = erel(*command, *sizes)
    first_seconds = time.monotonic() - begun
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    for part in ("prepare done", "lora-seed0 done", "left)", "by recall@10", "report.html"):
        assert part in first.stdout

    run = tmp_path / "run"
    records = {record.method: record for record in read_records(run / "records.jsonl")}
    assert {name: record.kind for name, record in records.items()} == {
        "chance": "floor",
        "training_neighbors": "floor",
        "frozen": "floor",
        "lora": "learned",
    }
    lora = records["lora"]
    assert lora.data == "shop" and lora.dropped["blank_text"] == 1
    assert lora.batch_size == 8 and lora.recompiles_after_warmup == 0
    assert 0 < (lora.trainable_parameters or 0) < (lora.total_parameters or 0)
    assert all(value and value > 0 for value in (lora.train_flops_per_step, lora.peak_bytes, lora.query_seconds_p50))
    assert lora.tpme is not None and lora.pscp is not None
    assert "--batch-size 8 --sub-batch 4" in lora.command
    assert "blank.png" in (run / "bad_records.jsonl").read_text()

    page = (run / "report.html").read_text("utf-8")
    assert not re.findall(r"""(?:src|href|action|poster)\s*=\s*["']?\s*(?:https?:)?//""", page)
    assert not re.findall(r"""@import|url\(\s*["']?(?:https?:)?//""", page)
    assert "<script>alert" not in page
    assert "data:image/png;base64," in page and "</html>" in page
    assert "|" in (run / "report.md").read_text("utf-8")

    begun = time.monotonic()
    second = erel(*command, *sizes)
    second_seconds = time.monotonic() - begun
    assert second.returncode == 0
    assert second.stdout.count("reused from an earlier run") == 4
    assert second_seconds < first_seconds / 2

    # A repaired picture is another input: what was measured without it no longer applies.
    (pairs.parent / "p3.png").write_bytes((pairs.parent / "p4.png").read_bytes())
    third = erel(*command[:-4], "--epochs", "1", "--batch-size", "8", "--out", "run", "--methods", "frozen")
    assert third.returncode == 0
    assert "reused" not in third.stdout
