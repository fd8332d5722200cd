"""Texts to ids: lengths, buckets, counts, and files that do not belong to the encoder."""

import json
from typing import Any

import numpy as np
import pytest

from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError, DataError
from erel_jax.interop.tokenizer import TextTokenizer, bucket, read_tokenizer


@pytest.fixture
def folder(bert_folder):
    return bert_folder[0]


def read(folder, **options) -> Any:
    return read_tokenizer(folder, **{"max_positions": 24, "vocabulary": 64, **options})


def test_ids_and_mask_by_hand(folder):
    out = read(folder).encode(["red shoes", "Blue", ""], max_length=6)
    np.testing.assert_array_equal(out["ids"], [[2, 4, 5, 9, 3, 0], [2, 7, 3, 0, 0, 0], [2, 3, 0, 0, 0, 0]])
    np.testing.assert_array_equal(out["mask"].sum(1), [5, 3, 2])
    assert out["ids"].dtype == np.int32 and out["mask"].dtype == bool
    assert not out["ids"][~out["mask"]].any()


def test_truncation_and_padding_stored_in_the_file_are_overridden(folder):
    out = read(folder).encode(["red " * 10])
    assert out["ids"].shape == (1, 24)
    assert out["mask"].sum() == 12


def test_truncated_texts_are_counted_and_keep_their_end(folder):
    tokenizer = read(folder)
    out = tokenizer.encode(["red " * 10, "blue", "sock " * 3], max_length=5)
    np.testing.assert_array_equal(out["ids"][0], [2, 4, 4, 4, 3])
    assert tokenizer.truncated == 1
    tokenizer.encode(["red " * 100_000])
    assert tokenizer.truncated == 2


def test_buckets_bound_the_shapes(folder):
    tokenizer = read(folder)
    lengths = {tokenizer.encode(["red " * n], buckets=(4, 8, 64))["ids"].shape[1] for n in range(40)}
    assert lengths == {4, 8, 24}
    assert tokenizer.encode([], buckets=(4,))["ids"].shape == (0, 4)
    with pytest.raises(ConfigError, match="add 24"):
        tokenizer.encode(["red " * 9], buckets=(4, 8))


@pytest.mark.parametrize(
    ("length", "limit", "buckets", "expected"),
    [(3, 10, None, 10), (3, 10, (8, 4), 4), (9, 10, (4, 16), 10), (4, 4, (4,), 4)],
)
def test_bucket(length, limit, buckets, expected):
    assert bucket(length, limit, buckets) == expected


@pytest.mark.parametrize("text", ["", "   ", "a\ud800b", "nul\x00", "\u202eright to left", "🙂" * 50, "é" * 1000])
def test_strange_texts_give_some_tokens(folder, text):
    out = read(folder).encode([text])
    assert out["mask"].sum() >= 2


def test_entries_that_are_no_strings_are_refused(folder):
    with pytest.raises(DataError, match=r"\[1\].*None"):
        read(folder).encode(["red", None])  # pyright: ignore[reportArgumentType]


def test_lengths_are_limited_by_the_encoder_the_folder_and_the_caller(folder):
    assert read(folder).max_length == 24
    assert read(folder, max_length=20).max_length == 20
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 16, "pad_token": {"content": "blue"}})
    )
    tokenizer = read(folder)
    assert (tokenizer.max_length, tokenizer.pad_id) == (16, 7)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert read(folder).max_length == 24
    with pytest.raises(ConfigError, match="1 to 24"):
        read(folder).encode(["red"], max_length=25)


def test_case_follows_the_tokenizer_config(folder):
    assert read(folder).encode(["Red"])["ids"][0, 1] == 4
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert read(folder).encode(["Red"])["ids"][0, 1] == 6
    assert read(folder, lowercase=True).encode(["Red"])["ids"][0, 1] == 4


def test_ids_beyond_the_embedding_table_are_refused(folder):
    assert read(folder, vocabulary=10).vocabulary == 10
    with pytest.raises(CheckpointError, match=r"ids up to 9.*has 9 rows"):
        read(folder, vocabulary=9)


def test_damaged_and_dangerous_files(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    with pytest.raises(CorruptArtifactError, match="never run"):
        read(folder)
    (folder / "tokenizer_config.json").unlink()
    for content in ("{}", "{", '{"version": "1.0", "model": {"type": "Nope"}}'):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(CorruptArtifactError, match=r"tokenizer\.json"):
            read(folder)


def test_a_folder_without_tokenizer_gives_none(tmp_path):
    assert read(tmp_path) is None


def test_a_vocabulary_file_is_read_through_transformers(folder):
    fast = read(folder)
    (folder / "tokenizer.json").unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "shoe", "Red", "blue", "sock", "##s", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    texts = ["Red shoes", "a blue sock"]
    slow = read(folder)
    np.testing.assert_array_equal(slow.encode(texts)["ids"], fast.encode(texts)["ids"])


def test_json_round_trip(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text(read(folder).to_json())
    assert read(tmp_path).encode(["red shoes"])["ids"].tolist() == read(folder).encode(["red shoes"])["ids"].tolist()


@pytest.mark.parity
def test_minilm_ids_equal_those_of_transformers(minilm_folder):
    import transformers

    texts = ["A red Shoe!", "naïve café — Ωmega 東京 🙂", "", "x" * 200, "Don't stop; 3.14 & co. " * 40]
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_folder)(
        texts, padding="max_length", truncation=True, max_length=64, return_tensors="np"
    )
    tokenizer = read_tokenizer(minilm_folder, max_positions=512, vocabulary=30522)
    assert isinstance(tokenizer, TextTokenizer)
    ours = tokenizer.encode(texts, max_length=64)
    np.testing.assert_array_equal(ours["ids"], theirs["input_ids"])
    np.testing.assert_array_equal(ours["mask"], theirs["attention_mask"] == 1)
    assert tokenizer.truncated == 1


def test_the_padding_token_may_stand_in_the_older_file(folder):
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "[UNK]"}}))
    assert read(folder).pad_id == 1
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[SEP]"}))
    assert read(folder).pad_id == 3


@pytest.mark.parametrize("setting", [{"do_lower_case": "yes"}, {"strip_accents": 1}, {"tokenize_chinese_chars": "no"}])
def test_settings_of_another_kind_are_refused(folder, setting):
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, **setting}))
    with pytest.raises(ConfigError, match="expected true, false or null"):
        read(folder)


def test_a_length_below_the_special_tokens_is_refused(folder):
    with pytest.raises(ConfigError, match="max_length 1, the tokenizer puts 2 special tokens"):
        read(folder).encode(["red"], max_length=1)


def test_one_string_is_no_list_of_texts(folder):
    with pytest.raises(DataError, match="one string 'red shoe', expected a list"):
        read(folder).encode("red shoe")
