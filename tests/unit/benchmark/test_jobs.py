"""Jobs of a run: their order, and when a finished one is used again."""

import dataclasses
import os
from pathlib import Path

import pytest

from erel_jax.benchmark import jobs
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.jobs import Job, job_fingerprint, job_folder, plan, read_result, write_result
from erel_jax.benchmark.record import Record
from erel_jax.benchmark.report.gallery import GalleryQuery, GalleryResult

RECORD = Record(
    task="recommendation", data="users", method="lora", kind="floor", seed=1, metrics={"hr@10": 0.5}, command="erel",
    environment=dict.fromkeys(
        ("python", "jax", "package_version", "commit", "device", "cpu", "cores", "os", "precision"), "x"
    ),
    unavailable=dict.fromkeys(
        ("trainable_parameters", "total_parameters", "peak_bytes", "peak_bytes_source", "encode_items_per_second",
         "query_seconds_p50", "query_seconds_p99", "bytes_per_item", "energy_joules"), "a test",
    ),
)  # fmt: skip
GALLERY = {"lora": [GalleryQuery("a\nb", None, [GalleryResult("c", None, 0.5, True)])]}
JOB = Job("method", "lora", 1)


@pytest.fixture
def config(tmp_path):
    data = tmp_path / "users.tsv"
    data.write_text("u\ta b c d e\n")
    return BenchConfig(task="recommendation", data=str(data), out=tmp_path / "out")


def write(config, job=JOB, records=(RECORD,)):
    write_result(config, job, job_fingerprint(config, job), list(records), GALLERY)


def test_plan_has_one_seed_of_every_method_before_the_next(config):
    names = [job.name for job in plan(dataclasses.replace(config, seeds=2), ["full", "lora"])]
    assert names == ["prepare", "floors", "full-seed0", "lora-seed0", "full-seed1", "lora-seed1"]


def test_a_result_comes_back_as_it_was_written(config):
    assert read_result(config, JOB) is None
    write(config)
    assert read_result(config, JOB) == ([RECORD], GALLERY)
    assert job_folder(config, JOB) == config.out_folder / "jobs" / "lora-seed1"
    write(config, Job("prepare"), records=())
    assert read_result(config, Job("prepare")) == ([], GALLERY)
    assert read_result(config, Job("floors")) is None


@pytest.mark.parametrize("name", ["records.jsonl", "gallery.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_result_is_none(config, name, damage):
    write(config)
    file = job_folder(config, JOB) / name
    data = file.read_bytes()
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\xff" + data[1:])
    assert read_result(config, JOB) is None


def test_other_options_inputs_or_code_make_a_result_stale(config, monkeypatch):
    write(config)
    assert read_result(dataclasses.replace(config, seeds=3, methods="lora"), JOB) is not None
    assert read_result(dataclasses.replace(config, epochs=3), JOB) is None
    data = Path(str(config.data))
    stamp = data.stat().st_mtime_ns
    os.utime(data, ns=(stamp, stamp + 1_000_000_000))
    assert read_result(config, JOB) is None
    os.utime(data, ns=(stamp, stamp))
    assert read_result(config, JOB) is not None
    monkeypatch.setattr(jobs, "source_digest", lambda: "other code")
    assert read_result(config, JOB) is None


def test_an_edited_file_in_an_image_folder_makes_a_result_stale(config, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"1")
    config = dataclasses.replace(config, images=folder)
    write(config)
    assert read_result(config, JOB) is not None
    (folder / "a.jpg").write_bytes(b"22")
    assert read_result(config, JOB) is None


@pytest.mark.parametrize("name", ["texts/plot.tsv", "images/a.jpg", "items.tsv"])
def test_an_edited_file_of_a_data_folder_makes_a_result_stale(config, tmp_path, name):
    """Further texts and pictures lie in folders below the one that is named."""
    folder = tmp_path / "data"
    for file in ("users.tsv", "items.tsv", "texts/plot.tsv", "images/a.jpg"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("1")
    config = dataclasses.replace(config, data=str(folder))
    write(config)
    assert read_result(config, JOB) is not None
    (folder / name).write_text("22")
    assert read_result(config, JOB) is None


def test_movielens_named_by_its_sequences_is_its_whole_folder(config, tmp_path):
    for file in ("ml1m_sequences.npz", "ml1m_movies.tsv"):
        (tmp_path / file).write_text("1")
    config = dataclasses.replace(config, data=str(tmp_path / "ml1m_sequences.npz"))
    write(config)
    assert read_result(config, JOB) is not None
    (tmp_path / "ml1m_movies.tsv").write_text("22")
    assert read_result(config, JOB) is None
