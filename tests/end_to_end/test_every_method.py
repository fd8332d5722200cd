"""Every registered method runs on a person's own small data and leaves a whole record; slow tests.

In recommendation one method of each mechanism runs; the contract tests train every method's item encoder.
"""

import pytest

from erel_jax.adapters.method import METHODS
from erel_jax.benchmark.record import read_records

# Each method compiles in a process of its own, so that even a few take minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NAMES = list(METHODS)
ALIKE = (
    "rslora",
    "dora",
    "ia3",
    "vera",
    "pfeiffer",
    "parallel",
    "compacter",
    "prefix_tuning",
    "qlora_int8",
    "layer_norm",
)


def _parts(names: list[str]) -> list[list[str]]:
    return [names[start : start + 5] for start in range(0, len(names), 5)]


def _whole(path, names) -> None:
    records = {record.method: record for record in read_records(path)}
    assert set(names) <= set(records)
    for name in names:
        record = records[name]
        assert record.metrics and all(value is not None and 0 <= value <= 1 for value in record.metrics.values())
        assert record.recompiles_after_warmup == 0
        if record.kind == "learned":
            assert record.trainable_parameters and record.train_step_seconds and record.train_flops_per_step


@pytest.mark.parametrize("names", _parts(NAMES), ids=lambda part: part[0])
def test_in_retrieval(quick, pairs, encoders, tmp_path, names) -> None:
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    options = ("--methods", ",".join(names), "--epochs", 1, "--batch-size", 8, "--out", "run")
    done = quick("bench", "--data", pairs, *towers, *options)
    assert done.code == 0, done.out + done.err
    _whole(tmp_path / "run" / "records.jsonl", names)


def test_four_modalities_of_a_folder_with_cold_items(quick, sequences, encoders, tmp_path) -> None:
    """Two further texts, one of them rare, beside titles and pictures; hidden items are ranked among themselves."""
    (sequences / "pictures").rename(sequences / "images")
    (sequences / "texts").mkdir()
    (sequences / "texts" / "plot.tsv").write_text("".join(f"i{n}\tred lamp {n}\n" for n in range(0, 40, 2)))
    (sequences / "texts" / "maker.tsv").write_text("i1\tpump\ni2\tglue\n")
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"], "--data", sequences)
    options = ("--methods", "crossan_cached", "--epochs", 1, "--batch-size", 4, "--split", "cold", "--out", "run")
    done = quick("bench", "--task", "recommendation", *towers, *options)
    assert done.code == 0, done.out + done.err
    _whole(tmp_path / "run" / "records.jsonl", ["crossan_cached"])
    records = {record.method: record for record in read_records(tmp_path / "run" / "records.jsonl")}
    assert {"tfidf_plot_neighbors", "maker_embedding_neighbors"} < set(records)
    found = records["crossan_cached"].dropped
    # 37 pictures, so three hidden items: a hit among the first five is certain.
    assert records["crossan_cached"].metrics["hr@5"] == records["popularity"].metrics["hr@5"] == 1.0
    assert (
        found["items_without_plot"] >= 15 and found["items_without_maker"] >= 30 and found["items_without_image"] == 3
    )


@pytest.mark.parametrize("names", _parts([n for n in NAMES if n not in ALIKE]), ids=lambda part: part[0])
def test_in_recommendation(quick, sequences, encoders, tmp_path, names) -> None:
    inputs = ("--data", sequences / "users.tsv", "--items", sequences / "items.tsv", "--images", sequences / "pictures")
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    options = ("--methods", ",".join(names), "--epochs", 1, "--batch-size", 16, "--out", "run")
    done = quick("bench", "--task", "recommendation", *inputs, *towers, *options)
    assert done.code == 0, done.out + done.err
    _whole(tmp_path / "run" / "records.jsonl", names)
