"""`erel bench --task recommendation` on sequences whose items lack some texts and some pictures."""

import pytest

from erel_jax.benchmark.record import read_records


@pytest.mark.slow
def test_from_sequences_to_a_report(erel, sequences, encoders, tmp_path) -> None:
    inputs = ("--data", sequences / "users.tsv", "--items", sequences / "items.tsv", "--images", sequences / "pictures")
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    options = ("--methods", "linear_probe,blend", "--epochs", "1", "--batch-size", "16", "--out", "run")
    done = erel("bench", "--task", "recommendation", *inputs, *towers, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr

    records = {record.method: record for record in read_records(tmp_path / "run" / "records.jsonl")}
    floors = {name for name, record in records.items() if record.kind == "floor"}
    assert floors == {
        "popularity",
        "markov",
        "tfidf_neighbors",
        "text_embedding_neighbors",
        "image_embedding_neighbors",
        "combined_floors",
    }
    assert {name for name, record in records.items() if record.kind == "learned"} == {"linear_probe", "blend"}
    for record in records.values():
        assert record.evaluated_queries == 60
        assert record.dropped == {
            "users_too_short": 2,
            "items_not_in_items_file": 2,
            "items_without_text": 3,
            "texts_cut": 0,
            "items_without_image": 3,
            "bad_images": 0,
        }
    assert records["linear_probe"].batch_size == 16
    assert records["blend"].validation_metrics == {}

    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.slow
def test_states_streamed_from_disk_train_as_those_on_the_device(quick, sequences, encoders, tmp_path) -> None:
    """The size and the choice are said before anything is encoded, and int8 is another store."""
    inputs = ("--data", sequences / "users.tsv", "--items", sequences / "items.tsv")
    options = ("--text-encoder", encoders["text"], "--methods", "iisan_cached", "--epochs", 1, "--batch-size", 16)
    found = {}
    for placement, storage in (("resident", "int8"), ("streamed", "int8")):
        states = ("--state-placement", placement, "--state-storage", storage, "--out", placement)
        done = quick("bench", "--task", "recommendation", *inputs, *options, *states)
        assert done.code == 0, done.out + done.err
        said = f"41 × 3×16 {storage} 0.0 MB; 0.0 MB in all, {placement}"
        assert said in " ".join(done.out.split())
        records = {record.method: record for record in read_records(tmp_path / placement / "records.jsonl")}
        found[placement] = records["iisan_cached"]
    assert found["streamed"].metrics == found["resident"].metrics
    assert found["streamed"].recompiles_after_warmup == 0
