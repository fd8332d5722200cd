"""Whatever a person or an attacker gives: the documented exit code, one message that names the thing, no traceback."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib

import pytest

from erel_jax.artifacts import RunLock

SHOP = ("bench", "--data", "pairs/shop.csv")
USERS = ("bench", "--task", "recommendation", "--data", "own data/users.tsv")


@pytest.fixture
def check_refused(quick):
    """Runs `erel`, expects it to end with `code`, and checks how it says so."""

    def check(code: int, *arguments: object, says: tuple[str, ...]) -> str:
        result = quick(*arguments)
        said = " ".join((result.out + result.err).replace("│", " ").split())
        assert result.code == code, said
        for words in says:
            assert words in said
        assert "Traceback" not in said
        return said

    return check


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bench", "--epohcs", "3"), ("--epohcs", "--epochs")),
        (("bench", "--task", "recomendation"), ("'recomendation'", "'recommendation'")),
        (("bnch",), ("bnch", "bench, embed, index, search, doctor")),
        (("bench", "--methods", "lroa"), ("'lroa'", "Did you mean 'lora'?")),
        (("bench", "--methods", ","), ("--methods got no name",)),
        (("bench", "--seeds", "0"), ("--seeds got 0", "above 0")),
        (("bench", "--seconds-per-method", "nan"), ("--seconds-per-method got nan",)),
        (("bench", "--data", ""), ("--data got an empty text",)),
        (("bench", "--task", "recommendation"), ("no --data", "TSV")),
        (("bench", "--data", "\udcff.csv"), ("not UTF-8",)),
    ],
)
def test_an_option_that_cannot_be_used(arguments, says, check_refused) -> None:
    check_refused(2, *arguments, says=says)


def test_inputs_that_are_not_there(check_refused, sequences, pairs, encoders) -> None:
    check_refused(3, "bench", "--data", "absent.csv", says=("absent.csv: no such file",))
    check_refused(2, "bench", "--data", "glyfs", says=("'glyfs'", "Did you mean 'glyphs'?"))
    check_refused(3, *USERS[:4], "absent.tsv", says=("--data got absent.tsv, which does not exist",))
    check_refused(3, *USERS[:4], "own data/pictures", says=("holds neither users.tsv nor sequences.npz",))
    check_refused(3, *USERS, "--items", "absent.tsv", says=("--items got absent.tsv", "does not exist"))
    check_refused(3, *SHOP, "--images", "absent", says=("--images got absent",))
    check_refused(2, *USERS, says=("--text-encoder", "--items"))
    check_refused(2, *USERS, "--text-encoder", encoders["text"], says=("--text-encoder needs --items",))
    check_refused(2, *USERS, "--image-encoder", encoders["image"], says=("--image-encoder needs --images",))


def test_output_that_cannot_be_written_is_refused_before_work(check_refused, pairs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)  # no worker may start
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir(mode=0o555)
    check_refused(2, *SHOP, "--out", "file", says=("file is a file, expected a folder",))
    check_refused(2, *SHOP, "--out", "locked/run", says=("locked is read-only", "--out"))
    check_refused(2, *SHOP, "--out", "/proc/run", says=("/proc", "--out"))
    check_refused(2, *SHOP, "--cache", "file", says=("file is a file", "--cache"))
    (tmp_path / "busy").mkdir()
    with RunLock(tmp_path / "busy"):
        check_refused(2, *SHOP, "--out", "busy", says=(f"busy is in use by process {os.getpid()}",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ("shop.csv: the file is empty",)),
        (b"image,text\n", ("has a header but no rows",)),
        (b"image,text\na.png,red\nb.png,blue,extra\n", ("shop.csv, line 3: got 3 columns, expected 2",)),
        (b'image,text\na.png,"red\n', ("shop.csv, line",)),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe", ("shop.csv, line 1: not UTF-8",)),
        (b"image,text\n../../secret.png,red\n", ("shop.csv, line 2:", "'../../secret.png' is refused")),
        (b"image,text\na\0.png,red\n", ("shop.csv, line 2:", "is refused")),
        (b"a.png,red\nb.png,red\n", ("distinct texts",)),
    ],
)
def test_a_table_that_cannot_be_read(content, says, check_refused, pairs, encoders) -> None:
    pairs.write_bytes(content)
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    check_refused(3, *SHOP, *towers, says=says)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("users.tsv", b"", ("users.tsv: the file is empty",)),
        ("users.tsv", b"u1\ti1 i2 i3 i4 i5\nu2 i1 i2\n", ("users.tsv, line 2: got 1 columns, expected 2",)),
        ("users.tsv", b"u1\ti1 i2\nu2\ti1 i2 i3\n", ("none of 2 users has 5 items or more",)),
        ("users.tsv", b"u1\ti1 i2 i4 i5 i6\nu1\ti1 i2\n", ("line 2: user 'u1' already has line 1",)),
        ("users.tsv", b"\x1f\x8b\x08\0\xff\xfe\n", ("users.tsv, line 1: not UTF-8",)),
        ("items.tsv", b"i1\tred\ni1\tblue\n", ("items.tsv, line 2: item 'i1' already has line 1",)),
        ("items.tsv", b"i1\tred\ni2\tblue\tsky\n", ("items.tsv, line 2: got 3 columns, expected 2",)),
        ("items.tsv", b"x1\tred\nx2\tblue\n", ("items have no row in the items file",)),
        ("items.tsv", b"\xed\xa0\x80\tlone surrogate\n", ("items.tsv, line 1: not UTF-8",)),
    ],
)
def test_sequences_that_cannot_be_read(name, content, says, check_refused, sequences, encoders) -> None:
    (sequences / name).write_bytes(content)
    said = check_refused(3, *USERS, "--items", "own data/items.tsv", "--text-encoder", encoders["text"], says=says)
    assert "Traceback" not in said


class _Attack:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_encoder_folders_that_are_unsafe_or_broken(check_refused, sequences, encoders, tmp_path) -> None:
    def given(code: int, folder: object, *says: str) -> None:
        check_refused(code, *USERS, "--items", "own data/items.tsv", "--text-encoder", folder, says=says)

    def copy(name: str):
        return shutil.copytree(encoders["text"], tmp_path / name)

    given(2, "./absent", "'./absent' is not a folder and not a Hub id")
    given(2, "someone/some-model", "'someone/some-model'", "offline")
    given(2, encoders["image"], "has no encoder for 'text'")
    pickles = copy("pickles")
    (pickles / "model.safetensors").unlink()
    (pickles / "pytorch_model.bin").write_bytes(pickle.dumps(_Attack()))
    given(4, pickles, "pytorch_model.bin", "can run code", "refused")
    leaving = copy("leaving")
    shutil.move(leaving / "model.safetensors", tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings.LayerNorm.bias": "../outside.safetensors"}}
    (leaving / "model.safetensors.index.json").write_text(json.dumps(index))
    given(4, leaving, "'../outside.safetensors' is refused")
    coded = copy("coded")
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.Evil"}}))
    (coded / "modeling.py").write_text("import os; os.system('touch owned')\n")
    given(4, coded, "auto_map")
    cut = copy("cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    given(4, cut, "model.safetensors", "damaged")
    mute = copy("mute")
    for file in mute.glob("tokenizer*"):
        file.unlink()
    given(2, mute, "has no tokenizer")
    assert not (tmp_path / "owned").exists()


def test_an_image_encoder_without_its_processing(check_refused, sequences, encoders, tmp_path) -> None:
    folder = shutil.copytree(encoders["image"], tmp_path / "blind")
    (folder / "preprocessor_config.json").unlink()
    images = ("--images", "own data/pictures")
    said = check_refused(2, *USERS, *images, "--image-encoder", folder, says=("no preprocessor_config.json",))
    assert "Traceback" not in said


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few bytes that says it has side × side pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def test_damaged_pictures_are_listed_and_too_many_stop_the_run(
    check_refused, pairs, sequences, encoders, tmp_path
) -> None:
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    whole = (pairs.parent / "p3.png").read_bytes()
    (pairs.parent / "p3.png").write_bytes(whole[:200])
    (pairs.parent / "p4.png").write_bytes(bomb())
    check_refused(
        3, *SHOP, *towers, "--out", "run", says=("2 of 61 records are damaged, more than 1.00%", "p3.png", "pixels")
    )
    listed = [json.loads(line) for line in (tmp_path / "run" / "bad_records.jsonl").read_text().splitlines()]
    assert {"p3.png", "p4.png", "blank.png"} == {record["id"] for record in listed}
    (sequences / "pictures" / "i1.png").write_bytes(bomb())
    images = ("--images", "own data/pictures", "--image-encoder", encoders["image"], "--out", "run")
    check_refused(3, *USERS, *images, says=("1 of 40 records are damaged", "i1", "more pixels than"))


def test_strange_but_sound_titles_are_taken(quick, sequences, encoders, tmp_path, monkeypatch) -> None:
    """100 kB, NUL, control characters, right-to-left marks and a title of one emoji: none is an error."""
    from erel_jax.benchmark import worker

    odd = ["x" * 100_000, "a\0b", "\x1b[31mred\x07", "\u202eevil", "\U0001f642", "=HYPERLINK(1)", "[/red]"]
    rows = (sequences / "items.tsv").read_text("utf-8").splitlines()
    for place, text in enumerate(odd, start=20):
        rows[place] = rows[place].split("\t")[0] + "\t" + text
    (sequences / "items.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    whole = worker.run_job
    # Only the job that reads everything; training is tested elsewhere.
    monkeypatch.setattr(worker, "run_job", lambda c, j, *rest: whole(c, j, *rest) if j.kind == "prepare" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quick(*USERS, "--items", "own data/items.tsv", "--text-encoder", encoders["text"], "--out", "run[/]")
    assert (tmp_path / "run[/]" / "jobs" / "prepare" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tiny_data_runs_with_every_default(erel, encoders, tmp_path) -> None:
    """One user, six items, default batch size, ten results wanted: all shrink to what there is."""
    (tmp_path / "one.tsv").write_text("u1\ta b c d e\n")
    (tmp_path / "titles.tsv").write_text("a\tx\nb\ty\nc\t\U0001f642\nd\tz\ne\tw\n", encoding="utf-8")
    options = ("--items", "titles.tsv", "--text-encoder", encoders["text"], "--methods", "blend", "--epochs", "2")
    done = erel("bench", "--task", "recommendation", "--data", "one.tsv", *options, "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without the floor tfidf_neighbors" in done.stdout
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    learned = next(record for record in records if record["method"] == "blend")
    assert learned["evaluated_queries"] == 1 and learned["metrics"]["hr@10"] == 1.0
    assert learned["train_step_seconds"] > 0


def test_no_traceback_reaches_the_terminal_of_a_real_process(erel, pairs, encoders) -> None:
    """The same door as above, through real processes: the worker's error, and a reader that goes away."""
    done = erel(*SHOP, "--text-encoder", "./absent", "--image-encoder", encoders["image"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "'./absent' is not a folder" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_environment_variable_shows_the_traceback(plain_environment, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "erel_jax.cli", "bench", "--methods", "lroa"],
        env=plain_environment | {"EREL_TRACEBACK": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "Traceback" in done.stderr and "lroa" in done.stderr


def test_pairs_that_share_too_much_to_be_split_are_counted(check_refused, pairs, encoders) -> None:
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    rows = "".join(f"p0.png,thing {number}\n" for number in range(30))
    pairs.write_text(f"image,text\n{rows}p1.png,\n")
    says = ("30 distinct texts and 1 pictures", "they are 1 groups, expected at least 3", "1 rows have no text")
    check_refused(3, *SHOP, *towers, says=says)
