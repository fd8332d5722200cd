"""The formats of M-BEIR: ids, texts, prompts, damaged lines, and whole folders with their pools."""

import json
from pathlib import Path

import numpy as np
import pytest

from erel_jax.data.bad_records import BadRecords
from erel_jax.data.image_sources import Pictures
from erel_jax.data.images import BadImage, encode_png
from erel_jax.data.mbeir import (
    MbeirQuery,
    candidate_id,
    format_text,
    hash_candidate_id,
    hash_query_id,
    query_id,
    read_instructions,
    read_pool,
    read_qrels,
    read_queries,
    union_pool,
)
from erel_jax.data.mbeir_tasks import gather_inputs, load_mbeir
from erel_jax.errors import ConfigError, DataError

RED = np.full((4, 6, 3), (200, 0, 0), np.uint8)
INSTRUCTIONS = "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\tprompt_3\tprompt_4\n"


def write(path: Path, *entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in entries), "utf-8")
    return path


def query(qid, text=None, image=None, modality="text", positives=(), negatives=()):
    return {
        "qid": qid,
        "query_txt": text,
        "query_img_path": image,
        "query_modality": modality,
        "query_src_content": None,
        "pos_cand_list": list(positives),
        "neg_cand_list": list(negatives),
    }


def candidate(did, text=None, image=None, modality="text"):
    return {"did": did, "txt": text, "img_path": image, "modality": modality, "src_content": None}


@pytest.fixture
def folder(tmp_path):
    """Two tasks of two data sets; text to picture, and picture and text to picture."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for name in "abc":
        (root / "images" / f"{name}.png").write_bytes(encode_png(RED))
    write(
        root / "query" / "test" / "mbeir_shop_task0_test.jsonl",
        query("1:0", "a red shoe", positives=["1:0"]),
        query("1:1", "a hat", positives=["1:1"], negatives=["1:0"]),
    )
    write(
        root / "query" / "test" / "mbeir_edit_task7_test.jsonl",
        query("2:5", "greener", "images/a.png", "image,text", ["1:1", "2:1"]),
    )
    write(
        root / "cand_pool" / "local" / "mbeir_shop_task0_cand_pool.jsonl",
        candidate("1:0", None, "images/a.png", "image"),
        candidate("1:1", None, "images/b.png", "image"),
    )
    write(
        root / "cand_pool" / "local" / "mbeir_edit_task7_test_cand_pool.jsonl",
        candidate("2:1", "grass", "images/c.png", "image,text"),
        candidate("2:2", "some words"),
    )
    write(
        root / "qrels" / "test" / "mbeir_shop_task0_test_qrels.txt", "1:0 0 1:0 1 0", "1:1 0 1:1 1 0", "1:1 0 1:0 0 0"
    )
    write(
        root / "instructions" / "query_instructions.tsv",
        INSTRUCTIONS + 'text\timage\tshop\t1\t"find it."\tshow it\tlook!\tbring it',
        "image,text\timage,text\tedit\t2\tchange it",
    )
    return root


# ---------------------------------------------------------------- lines
def test_ids_and_their_numbers():
    assert hash_query_id("3:7") == 1_500_007
    assert hash_candidate_id("3:7") == 30_000_007
    for number in (0, 499_999, 4_999_999):
        assert hash_query_id(query_id(number)) == number
        assert hash_candidate_id(candidate_id(number)) == number


@pytest.mark.parametrize("bad", ["3", "3:", ":3", "a:1", "1:500000", "-1:2", "1:2:3", "1: 2", "", "١:٢"])
def test_what_is_no_id_is_refused(bad):
    with pytest.raises(DataError, match="expected 'dataset:n'"):
        hash_query_id(bad)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("a red shoe", "A red shoe."),
        ('"quoted"', "Quoted."),
        ("What is it?", "What is it?"),
        ("Stop!\r\n", "Stop!"),
        ('  ""  ', ""),
        ("été", "Été."),
        ("3 cats", "3 cats."),
    ],
)
def test_texts_as_encoders_see_them(given, wanted):
    assert format_text(given) == wanted


def test_instructions_come_before_the_query_and_depend_on_seed_and_id(folder):
    table = read_instructions(folder / "instructions" / "query_instructions.tsv")
    assert table.prompts[2, "image,text", "image,text"] == ("change it",)

    def asked(number, seed, text="a hat"):
        entry = MbeirQuery(id=f"1:{number}", modality="text", text=text, image=None, positives=(), negatives=())
        return table.instructed(entry, "image", seed)

    wanted = {f"{prompt} a hat." for prompt in ("Find it.", "Show it.", "Look!", "Bring it.")}
    assert {asked(number, 0) for number in range(50)} == wanted
    assert {asked(7, seed) for seed in range(50)} == wanted
    assert asked(3, 5) == asked(3, 5)
    shares = [sum(asked(number, 1) == text for number in range(2000)) for text in wanted]
    assert all(400 < share < 600 for share in shares), shares
    assert asked(0, 0, "").split()[-1] in ("it.", "Look!")
    with pytest.raises(DataError, match=r"no instruction for data set 1 from 'text' to 'text', which query 1:0"):
        table.instructed(
            MbeirQuery(id="1:0", modality="text", text="", image=None, positives=(), negatives=()), "text", 0
        )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text\tsound\tx\t1\tfind it", "line 2: got 'text"),
        ("text\timage\tx\tone\tfind it", "line 2"),
        ("text\timage\tx\t1", "at least one wording"),
        ('text\timage\tx\t1\t""\t', "at least one wording"),
        ("", "a header and no instruction"),
    ],
)
def test_damaged_instructions_name_file_and_line(tmp_path, row, message):
    path = write(tmp_path / "table.tsv", INSTRUCTIONS + row)
    with pytest.raises(DataError, match=message):
        read_instructions(path)


BAD_LINES = [
    ("{", "not JSON"),
    ("[1]", "not an object"),
    ("[" * 100_000, "not JSON"),
    ({"did": 3, "modality": "text", "txt": "x"}, "did: got '3'"),
    ({"did": "1:10000000", "modality": "text", "txt": "x"}, "did: got"),
    ({"did": "1:5", "modality": "sound", "txt": "x"}, "modality: got 'sound'"),
    ({"did": "1:5", "modality": "text", "txt": ["x"]}, "expected strings or null"),
    ({"did": "1:5", "modality": "text", "txt": ' "" '}, "nothing there"),
    ({"did": "1:5", "modality": "image", "img_path": "images/none.png"}, "missing image: images/none.png"),
    ({"did": "1:0", "modality": "text", "txt": "another"}, "repeated id"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_damaged_line_of_a_pool_is_listed_or_stops(folder, tmp_path, line, reason):
    good = candidate("1:0", "words")
    path = write(tmp_path / "pool.jsonl", good, line, "")
    with pytest.raises(DataError, match=r"pool.jsonl, line 2: .*" + reason):
        read_pool(path, folder)
    bad = BadRecords(tmp_path / "bad.jsonl", 1.0)
    pool = read_pool(path, folder, bad)
    assert [item.id for item in pool.items] == ["1:0"]
    assert reason in bad.records[0].reason
    assert "line 2" in bad.records[0].file


def test_bytes_that_are_no_text_are_a_damaged_line(folder, tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"did": "1:0", "txt": "x", "modality": "text"}\n{"did": "1:1", "txt": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: not JSON"):
        read_pool(path, folder)


@pytest.mark.parametrize("path", ["../out.png", "/etc/passwd", "images/../../out.png", "c:\\x.png", "link.png"])
def test_no_path_leads_out_of_the_folder(folder, tmp_path, path):
    (tmp_path / "out.png").write_bytes(encode_png(RED))
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    pool = write(tmp_path / "pool.jsonl", candidate("1:0", "words", path))
    with pytest.raises(DataError, match=r"pool.jsonl, line 1: .*refused"):
        read_pool(pool, folder, BadRecords(tmp_path / "bad.jsonl", 1.0))


def test_a_query_without_its_picture_goes_on_with_its_text(folder, tmp_path):
    path = write(tmp_path / "q.jsonl", query("1:0", "words", "images/none.png", "text,image", ["1:0"]))
    bad = BadRecords(tmp_path / "bad.jsonl", 0.0)
    (found,) = read_queries(path, folder, bad)
    assert (found.image, found.text, found.modality, found.dataset) == (None, "words", "image,text", 1)
    assert bad.finish(1) == 1, "listed, but no sign of damage"


@pytest.mark.parametrize("ids", ["1:0", [3], ["1:x"]])
def test_candidate_lists_that_are_none(folder, tmp_path, ids):
    path = write(tmp_path / "q.jsonl", query("1:0", "words") | {"pos_cand_list": ids})
    with pytest.raises(DataError, match="line 1: candidate ids"):
        read_queries(path, folder)


def test_a_query_that_is_there_twice_counts_once(folder, tmp_path):
    same, other = query("1:1", "a shoe", positives=["1:1"]), query("1:1", "a bag", positives=["1:2"])
    path = write(tmp_path / "q.jsonl", same, same, other)
    bad = BadRecords(tmp_path / "bad.jsonl")
    (found,) = read_queries(path, folder, bad)
    assert (found.text, found.positives) == ("a shoe", ("1:1",))
    assert [(one.file, one.reason) for one in bad.records] == [
        (f"{path}, line 2", "repeated id: the first one counts"),
        (f"{path}, line 3", "repeated id: the first one counts"),
    ]
    with pytest.raises(DataError, match="line 2: repeated id"):
        read_queries(path, folder)


def test_judgments(tmp_path):
    path = write(tmp_path / "q.txt", "1:0 0 1:3 1 0", "1:0 0 1:4 2", "", "1:0 0 1:3 1 0", "1:1 0 1:4 0 0")
    assert read_qrels(path) == {"1:0": ("1:3", "1:4"), "1:1": ()}
    for line in ("1:0 0 1:3", "1:0 0 x 1 0", "q 0 1:3 1 0", "1:0 0 1:3 yes 0", "1:0 0 1:3 1 0 0"):
        with pytest.raises(DataError, match=r"q.txt, line 1: judgment: got .*, expected"):
            read_qrels(write(path, line))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_and_missing_files(folder, tmp_path, content):
    path = tmp_path / "pool.jsonl"
    with pytest.raises(DataError, match="no such file"):
        read_pool(path, folder)
    path.write_text(content)
    with pytest.raises(DataError, match="no usable line"):
        read_pool(path, folder)


# ---------------------------------------------------------------- folders
def load(folder, **options):
    return load_mbeir(folder, bad_records=folder.parent / "bad.jsonl", **options)


def test_tasks_pools_and_judgments(folder):
    data = load(folder)
    assert sorted(data.tasks) == ["edit_task7", "shop_task0"]
    assert [item.id for item in data.union.items] == ["2:1", "2:2", "1:0", "1:1"]
    shop, edit = data.tasks["shop_task0"], data.tasks["edit_task7"]
    assert shop.relevant == [("1:0",), ("1:1",)]
    assert shop.positives(shop.pool).tolist() == [[0], [1]]
    assert shop.positives(data.union).tolist() == [[2], [3]]
    # Without a file of judgments the query's own list counts; of its two, one is in the pool of its task.
    assert edit.positives(edit.pool).tolist() == [[0]]
    assert edit.positives(data.union).tolist() == [[3, 0]]
    assert (shop.sought, edit.sought) == (["image", "image"], ["image,text"])
    assert data.texts(edit, 0) == ["Change it. greener."]
    assert data.texts(edit, None) == ["Greener."]
    assert data.left_out == {}
    assert (folder.parent / "bad.jsonl").read_text() == ""


def test_a_union_pool_of_its_own_is_taken(folder):
    whole = [candidate(did, "words") for did in ("1:0", "1:1", "2:1", "9:9")]
    write(folder / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl", *whole)
    assert [item.id for item in load(folder).union.items] == ["1:0", "1:1", "2:1", "9:9"]


def test_pools_to_be_searched_are_no_training_pools(folder):
    write(folder / "query" / "train" / "mbeir_shop_task0_train.jsonl", query("1:7", "x", positives=["1:1"]))
    with pytest.raises(DataError, match=r"mbeir_union_train_cand_pool\.jsonl: no such file"):
        load(folder, split="train")
    write(folder / "cand_pool" / "global" / "mbeir_union_train_cand_pool.jsonl", candidate("1:1", "words"))
    data = load(folder, split="train")
    assert data.tasks["shop_task0"].pool is data.union
    assert [item.text for item in data.union.items] == ["words"]


def test_unknown_ids_are_listed_and_too_many_stop(folder):
    qrels = folder / "qrels" / "test" / "mbeir_shop_task0_test_qrels.txt"
    write(qrels, "1:0 0 1:0 1 0", "1:0 0 1:7 1 0", "1:1 0 1:8 1 0", "1:9 0 1:0 1 0")
    data = load(folder, max_bad_fraction=1.0)
    assert data.left_out == {"unknown candidate": 2, "no right candidate": 1, "unknown query": 1}
    assert [entry.id for entry in data.tasks["shop_task0"].queries] == ["1:0"]
    assert len((folder.parent / "bad.jsonl").read_text().splitlines()) == 4
    with pytest.raises(DataError, match=r"4 of .* records are damaged"):
        load(folder)


def test_folders_that_cannot_be_used(folder):
    with pytest.raises(ConfigError, match="has the splits test"):
        load(folder, split="val")
    write(folder / "query" / "val" / "mbeir_shop_task0_val.jsonl", query("1:0", "x", positives=["7:7"]))
    with pytest.raises(DataError, match="none of 1 queries"):
        load(folder, split="val", max_bad_fraction=1.0)
    for pool in (folder / "cand_pool" / "local").iterdir():
        pool.unlink()
    with pytest.raises(DataError, match=r"mbeir_union_test_cand_pool.jsonl: no such file"):
        load(folder)
    (folder / "instructions" / "query_instructions.tsv").unlink()
    write(folder / "cand_pool" / "global" / "mbeir_union_val_cand_pool.jsonl", candidate("7:7", "x"))
    data = load(folder, split="val")
    with pytest.raises(DataError, match=r"no instructions/query_instructions.tsv"):
        data.texts(data.tasks["shop_task0"], 0)


def test_inputs_and_masks(folder):
    data = load(folder)
    items = [data.union.items[row] for row in (0, 1, 2)]
    with Pictures(folder) as pictures:
        found = gather_inputs(items, pictures, 4)
        own = gather_inputs(items, pictures, 4, resize=False, texts=["Other."] * 3)
    assert found.texts == ["Grass.", "Some words.", ""]
    assert found.has_text.tolist() == [True, True, False]
    assert found.has_image.tolist() == [True, False, True]
    assert [picture.shape for picture in found.pictures] == [(4, 4, 3)] * 3
    np.testing.assert_array_equal(found.pictures[1], 0)
    assert own.texts == ["Other."] * 3
    assert own.pictures[0].shape == (4, 6, 3)


def test_a_damaged_picture_counts_as_missing_and_is_listed(folder):
    data = load(folder)
    (folder / "images" / "a.png").write_bytes(encode_png(RED)[:20])
    (folder / "images" / "b.png").unlink()
    items = [data.union.items[row] for row in (2, 3)]
    with Pictures(folder) as pictures:
        found = gather_inputs(items, pictures, 4, bad=data.bad)
        assert found.has_image.tolist() == [False, False]
        assert data.left_out == {"unreadable image": 2}
        with pytest.raises(BadImage, match=r"1:0, images/a.png"):
            gather_inputs(items[:1], pictures, 4)
        with pytest.raises(DataError, match=r"1:1, images/b.png"):
            gather_inputs(items[1:], pictures, 4)
        with pytest.raises(ConfigError, match="got 1 texts for 2 items"):
            gather_inputs(items, pictures, 4, texts=["x"])


def test_a_union_keeps_the_first_of_equal_ids(folder):
    pools = [read_pool(path, folder) for path in sorted((folder / "cand_pool" / "local").iterdir())]
    joined = union_pool([*pools, *pools])
    assert len(joined) == len({item.id for item in joined.items}) == 4
    assert [joined.rows[item.id] for item in joined.items] == [0, 1, 2, 3]
