"""`erel embed`, `erel index` and `erel search` from pictures and texts to hits, with all that a person may do wrong."""

import dataclasses
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from erel_jax import retrieval, tree
from erel_jax.catalogs.shards import read_catalog
from erel_jax.encoders import ENCODERS
from erel_jax.errors import DataError
from erel_jax.interop.configurations import document_of
from erel_jax.interop.families import FAMILIES
from erel_jax.interop.image_processor import vit_settings
from erel_jax.interop.weights import write_tensors
from tests.end_to_end.conftest import ATTACK, picture

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "shoe", "lamp"]
SHARDS = ("--batch", 4, "--shard-rows", 8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Folder of a tiny CLIP with tokenizer and image settings: both towers, random weights."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    folder.mkdir()
    tensors, sections = {"logit_scale": np.array(2.6, np.float32)}, {}
    for seed, (kind, section) in enumerate(
        [("clip_text_model", "text_config"), ("clip_vision_model", "vision_config")]
    ):
        config = ENCODERS[kind].config.tiny()
        config = dataclasses.replace(config, eos_id=3) if section == "text_config" else config
        encoder, draw = ENCODERS[kind].build(config), np.random.default_rng(seed)
        params = tree.map_with_path(
            lambda _, s, d=draw: d.normal(size=s.shape).astype(np.float32) * 0.3, encoder.module.spec
        )
        tensors |= write_tensors(params, FAMILIES[kind].weights(config))
        sections[section] = document_of(config)
    document = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 12, **sections}
    (folder / "config.json").write_text(json.dumps(document))
    save_file(tensors, folder / "model.safetensors")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps(vit_settings(12)))
    return folder


@pytest.fixture
def shop(tmp_path):
    """A table of 21 items; faults: a broken picture, a bomb, a missing one, an escape, none at all, a short row."""
    root = tmp_path / "shop"
    root.mkdir()
    rows = ["id,image,text"]
    for number in range(15):
        picture(number).save(root / f"p{number}.png")
        rows.append(f'sku-{number},p{number}.png,"red shoe {ATTACK}"')
    (root / "broken.png").write_bytes((root / "p1.png").read_bytes()[:200])
    header = struct.pack(">4sIIBBBBB", b"IHDR", 30_000, 30_000, 8, 2, 0, 0, 0)
    checked = (
        struct.pack(">I", 13) + header + struct.pack(">II4sI", zlib.crc32(header), 0, b"IDAT", zlib.crc32(b"IDAT"))
    )
    (root / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + checked)
    rows += [
        "b,broken.png,x",
        "huge,bomb.png,x",
        "m,missing.png,green lamp",
        "e,../../etc/passwd,x",
        "n,,blue shoe",
        "short",
    ]
    (root / "items.csv").write_text("\n".join(rows) + "\n")
    return root / "items.csv"


def test_from_pictures_to_hits(quick, shop, clip, tmp_path):
    done = quick("embed", "--model", clip, "--data", shop, "--out", "vectors", *SHARDS, "--precision", "float32")
    assert done.code == 0, done.err
    for words in ("21 rows", "in 3 shards", "A first batch of 4", "encoder alone", "15 of 21 rows", "Next: erel index"):
        assert words in " ".join(done.out.split())
    listed = [json.loads(line) for line in (tmp_path / "vectors" / "left_out.jsonl").read_text().splitlines()]
    assert {one["id"]: one["kind"] for one in listed} == {
        "b": "broken picture",
        "huge": "broken picture",
        "m": "picture missing",
        "e": "path refused",
        "n": "no picture",
        "": "malformed row",
    }
    assert listed[-1]["file"] == "items.csv, line 22" and "more pixels" in listed[1]["reason"]
    catalog = read_catalog(tmp_path / "vectors")
    assert catalog.ids.tolist() == [f"sku-{n}" for n in range(15)] and catalog.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(catalog.vectors, axis=1), 1, atol=1e-6)

    from erel_jax.data.images import decode_image
    from erel_jax.interop.huggingface import load_encoder

    loaded = load_encoder(clip, modality="image")
    pixels = loaded.image_inputs([decode_image((shop.parent / "p3.png").read_bytes())])
    own = np.asarray(loaded.encoder.module.apply(loaded.params, pixels).embedding)[0]
    np.testing.assert_allclose(catalog.vectors[3], own / np.linalg.norm(own), atol=1e-5)

    assert quick("index", "--vectors", "vectors", "--out", "index", "--code", "float32").code == 0
    again = quick("index", "--vectors", "vectors", "--out", "index")
    assert again.code == 2 and "--overwrite" in again.err
    found = quick(
        "search",
        "--index",
        "index",
        "--image",
        shop.parent / "p7.png",
        "--k",
        30,
        "--out",
        "h.jsonl",
        "--html",
        "h.html",
    )
    assert found.code == 0, found.err
    hits = json.loads((tmp_path / "h.jsonl").read_text())
    assert hits["ids"][0] == "sku-7" and len(hits["ids"]) == 15 and hits["scores"][0] > 0.999
    page = (tmp_path / "h.html").read_text()
    assert page.count("<img") == 16 and "<script" not in page and "&lt;script&gt;" in page
    by_text = quick("search", "--index", "index", "--text", "red shoe", "--out", "t.jsonl")
    assert by_text.code == 0 and len(json.loads((tmp_path / "t.jsonl").read_text())["ids"]) == 10
    (tmp_path / "many.jsonl").write_text('{"text": "blue lamp"}\n{"text": ""}\n{"text": "red shoe"}\n')
    many = quick("search", "--index", "index", "--queries", "many.jsonl", "--out", "m.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert (
        many.code == 0 and [line["query"] for line in lines] == ["1", "3"] and "line 2: the text is empty" in many.out
    )
    assert lines[1]["ids"] == json.loads((tmp_path / "t.jsonl").read_text())["ids"]


def test_texts(quick, encoders, tmp_path):
    """Texts of all lengths, in other shapes than they would have alone; the order of the source is kept."""
    texts = ["red shoe", "", "lamp " * 20, "pump " * 20_000, "green book \ud800 \0 cable", "white"]
    rows = [json.dumps({"id": n, "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows) + "\n")
    options = ("--precision", "float32", "--dims", 8, "--store", "float16", *SHARDS)
    done = quick("embed", "--model", encoders["text"], "--data", "t.jsonl", "--out", "v", *options)
    assert done.code == 0, done.err
    assert "texts cut" in done.out and "padding" in done.out
    catalog = read_catalog(tmp_path / "v")
    assert catalog.ids.tolist() == ["0", "2", "3", "4", "5"] and catalog.vectors.shape == (5, 8)
    listed = [json.loads(line) for line in (tmp_path / "v" / "left_out.jsonl").read_text().splitlines()]
    assert [(one["id"], one["kind"], one["kept"]) for one in listed] == [
        ("1", "no text", False),
        ("3", "long text cut", True),
    ]

    from erel_jax.interop.huggingface import load_encoder

    loaded = load_encoder(encoders["text"])
    own = np.asarray(loaded.encoder.module.apply(loaded.params, loaded.text_inputs(["white"])).embedding)[0, :8]
    np.testing.assert_allclose(catalog.vectors[4], own / np.linalg.norm(own), atol=1e-3)
    assert quick("index", "--vectors", "v", "--out", "i", "--code", "float32").code == 0
    assert quick("search", "--index", "i", "--text", "white", "--out", "o.jsonl").code == 0
    assert json.loads((tmp_path / "o.jsonl").read_text())["ids"][0] == "5"


def test_an_index_of_more_than_memory_holds_is_the_same(quick, shop, clip, tmp_path, monkeypatch):
    from erel_jax.catalogs import build

    assert quick("embed", "--model", clip, "--data", shop, "--out", "v", *SHARDS).code == 0
    made = {}
    for name, resident in (("whole", 2**31), ("streamed", 0)):
        monkeypatch.setattr(build, "RESIDENT_BYTES", resident)
        monkeypatch.setattr(build, "SAMPLED", 5)
        done = quick("index", "--vectors", "v", "--out", name, "--code", "eden4", "--keep-vectors")
        assert done.code == 0 and ("measured on 5 of the rows" in " ".join(done.out.split())) == (resident == 0)
        made[name] = retrieval.load_index(tmp_path / name)
    whole, streamed = made["whole"], made["streamed"]
    assert whole.ids.tolist() == streamed.ids.tolist() and whole.made_by == streamed.made_by
    assert all(np.array_equal(values, streamed.stored[part]) for part, values in whole.stored.items())
    np.testing.assert_array_equal(whole.vectors, streamed.vectors)


def exactly_once(folder, ids):
    catalog = read_catalog(folder)
    assert catalog.ids.tolist() == ids
    return catalog


def test_what_a_killed_worker_leaves_is_done_again(quick, shop, clip, tmp_path):
    """A lease of a dead process, a half-written shard, a missing one: after a restart each id is there once."""
    command = ("embed", "--model", clip, "--data", shop, "--out", "v", "--precision", "int8", *SHARDS)
    assert quick(*command, "--worker", 0, "--workers", 2).code == 0
    out = tmp_path / "v"
    first = out / "shard-00000-of-00003"
    before = (first / "vectors.npy").stat().st_mtime_ns
    assert not (out / "done.json").exists() and not (out / "shard-00001-of-00003").exists()
    with pytest.raises(DataError, match="1 of 3 shards are not there yet"):
        read_catalog(out)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    lease = {"process": int(dead.stdout), "host": socket.gethostname(), "token": "x"}
    (out / "leases" / "shard-00001-of-00003.lease").write_text(json.dumps(lease))
    half = out / f"shard-00001-of-00003.tmp-{lease['process']}"
    shutil.copytree(first, half)
    (half / "manifest.json").unlink()
    done = quick(*command)
    assert done.code == 0, done.err
    exactly_once(out, [f"sku-{n}" for n in range(15)])
    assert (first / "vectors.npy").stat().st_mtime_ns == before, "a finished shard was done again"
    assert not half.exists() and json.loads((out / "done.json").read_text())["kept"] == 15
    assert quick(*command).code == 0, "nothing left to do is no error"

    data = bytearray((first / "vectors.npy").read_bytes())
    data[-3] ^= 1
    (first / "vectors.npy").write_bytes(data)
    damaged = quick("index", "--vectors", "v", "--out", "i")
    assert damaged.code == 4 and "shard-00000-of-00003" in damaged.err


def test_workers_of_another_job_are_refused(quick, shop, clip, encoders, tmp_path):
    command = ("embed", "--data", shop, "--out", "v", *SHARDS)
    assert quick(*command, "--model", clip).code == 0
    for options, words in (
        (("--model", encoders["image"]), ("fingerprint", str(clip), str(encoders["image"]))),
        (("--model", clip, "--dims", 6), ("fingerprint",)),
        (("--model", clip, "--precision", "float32"), ("bfloat16", "float32")),
        (("--model", clip, "--modality", "text"), ("image encoder", "text encoder")),
    ):
        refused = quick(*command, *options)
        assert refused.code == 2 and all(word in refused.err for word in words), refused.err
    shop.write_text(shop.read_text() + "more,p1.png,x\n")
    refused = quick(*command, "--model", clip)
    assert refused.code == 2 and refused.err.count("fingerprint") == 1 and "items.csv" in refused.err

    assert quick("index", "--vectors", "v", "--out", "i").code == 0
    other = quick("search", "--index", "i", "--model", encoders["image"], "--image", shop.parent / "p1.png")
    assert other.code == 2 and "fingerprint" in other.err and str(clip) in other.err
    wrong = quick("search", "--index", "i", "--model", encoders["image"], "--text", "red")
    assert wrong.code == 2 and "reads image" in wrong.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("embed", "--model", "MODEL", "--data", "nothing", "--out", "v"), 3, "no such file"),
        (("embed", "--model", "no folder", "--data", "DATA", "--out", "v"), 2, "not a folder"),
        (("embed", "--model", "MODEL", "--data", "DATA", "--out", "v", "--batch", "0"), 2, "--batch"),
        (("embed", "--model", "MODEL", "--data", "DATA", "--out", "v", "--worker", "3"), 2, "--workers"),
        (("embed", "--model", "MODEL", "--data", "DATA", "--out", "v", "--dims", "99"), 2, "1 to 12"),
        (("embed", "--model", "MODEL", "--data", "TWICE", "--out", "v"), 3, "line 2 and again in line 4"),
        (("embed", "--model", "MODEL", "--data", "ALL_BAD", "--out", "v"), 3, "none of 2 rows"),
        (("index", "--vectors", "DATA_FOLDER", "--out", "i"), 2, "plan.json"),
        (("embed", "--model", "MODEL", "--data", "DATA_FOLDER", "--out", "DATA_FOLDER"), 2, "left_out.jsonl"),
        (("search", "--index", "nothing", "--text", "a"), 2, "no folder"),
        (("search", "--index", "nothing", "--text", "a", "--html", "DATA_FOLDER"), 2, "name of a file"),
        (("search", "--index", "nothing"), 2, "one of --text"),
        (("search", "--index", "DATA_FOLDER", "--text", "a"), 4, "manifest"),
    ],
)
def test_mistakes_have_an_answer_and_an_exit_code(quick, shop, clip, tmp_path, arguments, code, words):
    (tmp_path / "twice.csv").write_text("id,text\nx,a\ny,b\nx,c\n")
    (tmp_path / "bad.csv").write_text("id,image\nx,nothing.png\ny,\n")
    named = {"MODEL": clip, "DATA": shop, "DATA_FOLDER": shop.parent, "TWICE": "twice.csv", "ALL_BAD": "bad.csv"}
    done = quick(*(named.get(argument, argument) for argument in arguments))
    assert done.code == code and words in done.err and "Traceback" not in done.err, done.err


@pytest.mark.parametrize("content", ["", "id,image,text\nnew,p1.png,first\n"])
def test_a_table_that_changes_under_a_worker_stops_it(quick, shop, clip, tmp_path, monkeypatch, content):
    from erel_jax.catalogs import embed

    encode = embed.encode_shard

    def changing(preparation, rows, meter, after):
        shop.write_text(content)
        return encode(preparation, rows, meter, after)

    monkeypatch.setattr(embed, "encode_shard", changing)
    done = quick("embed", "--model", clip, "--data", shop, "--out", "v", *SHARDS)
    assert done.code == 3 and "changed while it was read" in done.err, done.err
    assert not list((tmp_path / "v").glob("shard-*")) and not (tmp_path / "v" / "done.json").exists()


def test_the_page_shows_ids_where_the_source_lost_its_columns(quick, shop, clip, tmp_path):
    assert quick("embed", "--model", clip, "--data", shop, "--out", "v", *SHARDS).code == 0
    assert quick("index", "--vectors", "v", "--out", "i").code == 0
    query = shop.parent / "p7.png"
    for content in ("name,other\nx,y\n", ""):
        shop.write_text(content)
        found = quick("search", "--index", "i", "--image", query, "--html", "h.html")
        page = (tmp_path / "h.html").read_text()
        assert found.code == 0 and "sku-7" in page and "cannot be read as it was" in page, found.err
        (tmp_path / "h.html").unlink()


@pytest.mark.slow
def test_two_workers_one_of_them_killed(clip, plain_environment, tmp_path):
    """Two processes share a corpus; one is killed and one asked to stop in the middle, and two others finish it."""
    (tmp_path / "pictures").mkdir()
    for number in range(600):
        picture(number).resize((300, 300)).save(tmp_path / "pictures" / f"p{number:03d}.png")
    arguments = [
        "embed",
        "--model",
        str(clip),
        "--data",
        "pictures",
        "--out",
        "v",
        "--batch",
        "4",
        "--shard-rows",
        "20",
    ]
    started = []

    def start() -> subprocess.Popen:
        command = [sys.executable, "-m", "erel_jax.cli", *arguments]
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=plain_environment, cwd=tmp_path, **output))
        return started[-1]

    def wait_for(shards: int) -> None:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "v").glob("shard-*-of-00030"))) < shards and time.monotonic() < deadline:
            time.sleep(0.01)

    try:
        first, second = start(), start()
        wait_for(4)
        first.kill()
        wait_for(8)
        second.terminate()
        message = second.communicate(timeout=100)[1]
        assert first.wait(100) == -signal.SIGKILL
        assert second.returncode == 75 and "Run the command again" in message and "Traceback" not in message
        assert not (tmp_path / "v" / "done.json").exists()
        assert [process.wait(200) for process in (start(), start())] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    exactly_once(tmp_path / "v", [f"p{number:03d}.png" for number in range(600)])
    left = {path.name for path in (tmp_path / "v").iterdir() if "-of-" not in path.name}
    assert left == {"plan.json", "done.json", "left_out.jsonl"}


def test_a_header_is_never_embedded_and_a_failed_start_leaves_nothing(quick, encoders, tmp_path):
    (tmp_path / "t.csv").write_text("sku,description\na,red shoe\nb,blue lamp\n")
    command = ("embed", "--model", encoders["text"], "--out", "v")
    refused = quick(*command, "--data", "t.csv")
    assert refused.code == 3 and "columns sku, description" in refused.err and "--text-key" in refused.err
    assert quick(*command, "--data", "mistyped.csv").code == 3 and not (tmp_path / "v").exists()
    assert quick("bench", "--data", "mistyped.csv", "--out", "run").code == 3 and not (tmp_path / "run").exists()
    named = quick(*command, "--data", "t.csv", "--id-key", "sku", "--text-key", "description")
    assert named.code == 0 and read_catalog(tmp_path / "v").ids.tolist() == ["a", "b"]
    (tmp_path / "empty.csv").write_text("id,text\na,\n")
    none = quick("embed", "--model", encoders["text"], "--data", "empty.csv", "--out", "n")
    assert none.code == 3 and "Next:" not in none.out and "none of 1 rows" in none.err


def test_texts_that_were_cut_are_not_called_left_out(quick, encoders, tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "red shoe " * 2000}) + "\n")
    done = quick("embed", "--model", encoders["text"], "--data", "t.jsonl", "--out", "my vectors")
    said = " ".join(done.out.split())
    assert "1 of 1 rows have a vector. Long texts that were cut are listed in my vectors/left_out.jsonl" in said
    assert "Next: erel index --vectors 'my vectors' --out 'my vectors-index'" in said


def test_pictures_with_any_name_are_embedded_and_links_are_counted(quick, clip, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(("back\\slash.png", "plain.png", ".hidden.png", "notes.txt")):
        picture(number).save(folder / name, format="PNG")
    (tmp_path / "other").mkdir()
    (folder / "link").symlink_to("../other")
    done = quick("embed", "--model", clip, "--data", folder, "--out", "v")
    assert done.code == 0 and read_catalog(tmp_path / "v").ids.tolist() == ["back\\slash.png", "plain.png"]
    said = " ".join(done.out.split())
    for words in ("1 files beside the pictures are no pictures", "1 hidden files", "1 folders are symbolic links"):
        assert words in said
    assert quick("index", "--vectors", "v", "--out", "i", "--code", "float32").code == 0
    asked = ("search", "--index", "i", "--image", folder / "back\\slash.png", "--html", "h.html", "--out", "h.jsonl")
    assert quick(*asked).code == 0
    assert json.loads((tmp_path / "h.jsonl").read_text())["ids"][0] == "back\\slash.png"
    assert (tmp_path / "h.html").read_text().count("<img") == 3


def test_queries_in_an_archive_are_shown_on_the_page(quick, clip, tmp_path):
    (tmp_path / "pictures").mkdir()
    with zipfile.ZipFile(tmp_path / "q.zip", "w") as archive:
        for number in range(3):
            picture(number).save(tmp_path / "pictures" / f"{number}.png")
            archive.write(tmp_path / "pictures" / f"{number}.png", f"q{number}.png")
    assert quick("embed", "--model", clip, "--data", "pictures", "--out", "v").code == 0
    assert quick("index", "--vectors", "v", "--out", "i").code == 0
    assert quick("search", "--index", "i", "--queries", "q.zip", "--k", 1, "--html", "h.html").code == 0
    assert (tmp_path / "h.html").read_text().count("<img") == 6
    gone = quick("search", "--index", "i", "--text", "red", "--html", "h.html", "--data", "mistyped")
    assert gone.code == 0 and "The source mistyped is not there" in " ".join(gone.out.split())
    assert "Pictures and texts of the hits" not in gone.out


def test_what_to_do_next_can_be_done(quick, encoders, tmp_path):
    """A model of texts alone is not searched with pictures; what helps no more is not advised."""
    rows = [json.dumps({"id": n, "text": f"red lamp {n}"}) for n in range(30)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows) + "\n")
    assert quick("embed", "--model", encoders["text"], "--data", "t.jsonl", "--out", "v").code == 0
    done = quick("index", "--vectors", "v", "--out", "my index", "--code", "binary", "--keep-vectors", "--recall", 1)
    said = " ".join(done.out.split())
    assert done.code == 0 and "or --keep-vectors" not in said
    assert "Next: erel search --index 'my index' --text \"…\"" in said and "--image" not in said
    small = quick("index", "--vectors", "v", "--out", "j", "--code", "product")
    assert small.code == 2 and "30 vectors of v" in small.err and "such as int8" in small.err
    coarse = quick("embed", "--model", encoders["text"], "--data", "t.jsonl", "--out", "w", "--precision", "int4")
    assert coarse.code == 2 and "--precision int4 does not fit" in coarse.err and "Take int8" in coarse.err
    vectors = quick("search", "--index", "v", "--text", "red")
    assert vectors.code == 2 and "erel index --vectors v" in vectors.err


def test_an_index_of_ten_or_fewer_says_that_its_recall_says_nothing(quick, encoders, tmp_path):
    (tmp_path / "t.csv").write_text("id,text\na,red\n")
    assert quick("embed", "--model", encoders["text"], "--data", "t.csv", "--out", "v").code == 0
    assert "this recall says nothing" in " ".join(quick("index", "--vectors", "v", "--out", "i").out.split())


@pytest.mark.parametrize("options", [("--out", "q.jsonl"), ("--html", "./q.jsonl"), ("--out", "h", "--html", "h")])
def test_a_search_writes_over_nothing_that_it_reads_or_writes(quick, tmp_path, options):
    (tmp_path / "q.jsonl").write_text('{"text": "red"}\n')
    done = quick("search", "--index", "i", "--queries", "q.jsonl", *options)
    assert done.code == 2 and "same file" in done.err and "erel search --help" in done.err
    assert (tmp_path / "q.jsonl").read_text() == '{"text": "red"}\n'


def test_queries_without_a_known_column_are_answered_with_what_search_can_do(quick, shop, clip, tmp_path):
    assert quick("embed", "--model", clip, "--data", shop, "--out", "v").code == 0
    assert quick("index", "--vectors", "v", "--out", "i").code == 0
    (tmp_path / "q.csv").write_text("a,b,c\n1,2,3\n")
    done = quick("search", "--index", "i", "--queries", "q.csv")
    assert done.code == 3 and "Rename the column of --queries" in done.err and "--text-key" not in done.err
