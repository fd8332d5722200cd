"""Readers of user sequences."""

import numpy as np
import pytest

from erel_jax.data.sequences import read_sequence_arrays, read_sequences
from erel_jax.errors import DataError


def _write(tmp_path, text, name="users.tsv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_reads_users_in_order_with_string_ids(tmp_path):
    path = _write(tmp_path, "u1\tB07 3000000000 B07\nu2\tA1\n")
    sequences = read_sequences(path)
    assert sequences.user_ids == ("u1", "u2")
    assert sequences.vocabulary == ("B07", "3000000000", "A1")
    assert sequences.items_of(0) == ["B07", "3000000000", "B07"]
    assert sequences.items_of(1) == ["A1"]
    np.testing.assert_array_equal(sequences.lengths, [3, 1])
    assert sequences.source == str(path)


def test_accepts_byte_order_mark_windows_line_ends_and_a_missing_last_newline(tmp_path):
    sequences = read_sequences(_write(tmp_path, b"\xef\xbb\xbfu1\ta b\r\nu2\tc"))
    assert sequences.user_ids == ("u1", "u2")
    assert sequences.items_of(1) == ["c"]


def test_user_without_items_is_kept_with_length_zero(tmp_path):
    sequences = read_sequences(_write(tmp_path, "u1\t\nu2\ta\n"))
    np.testing.assert_array_equal(sequences.lengths, [0, 1])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("u1\ta b\nu2 a b\n", ["line 2", "got 1 columns", "expected 2"]),
        ("u1\ta\tb\n", ["line 1", "got 3 columns"]),
        ("u1\ta\n\nu2\tb\n", ["line 2", "got 1 columns"]),
        ("u1\ta\n\tb\n", ["line 2", "user id is empty"]),
        ("u1\ta\nu2\tb\nu1\tc\n", ["line 3", "'u1'", "already has line 1"]),
        ("", ["empty"]),
        ("\n \n", ["empty"]),
        (b"u1\ta\nu2\t\xff\n", ["line 2", "UTF-8"]),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, text, parts):
    path = _write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_sequences(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.tsv: no such file"):
        read_sequences(tmp_path / "absent.tsv")
    with pytest.raises(DataError, match="cannot be read"):
        read_sequences(tmp_path)
    with pytest.raises(DataError, match=r"absent\.npz: no such file"):
        read_sequence_arrays(tmp_path / "absent.npz")


def _archive(tmp_path, **changes):
    arrays = {
        "user_id": np.array([1, 2], np.int32),
        "offsets": np.array([0, 2, 5], np.int32),
        "movie_id": np.array([30, 10, 20, 10, 30], np.int16),
    } | changes
    path = tmp_path / "sequences.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_reads_compact_arrays(tmp_path):
    sequences = read_sequence_arrays(_archive(tmp_path))
    assert sequences.user_ids == ("1", "2")
    assert sequences.items_of(0) == ["30", "10"]
    assert sequences.items_of(1) == ["20", "10", "30"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": None}, "missing"),
        ({"offsets": np.array([0, 2, 4])}, "offsets do not run from 0 to 5"),
        ({"offsets": np.array([0, 6, 5])}, "never fall"),
        ({"offsets": np.array([0, 5])}, "offsets do not run"),
        ({"movie_id": np.array([1.0, 2, 3, 4, 5])}, "movie_id is float64"),
        ({"user_id": np.array(["a", "b"])}, "user_id is <U1"),
        ({"user_id": np.array([[1, 2]])}, "user_id is int64"),
        ({"user_id": np.array([], int), "offsets": np.array([0]), "movie_id": np.array([], int)}, "no user"),
        ({"movie_id": np.array([{}], object)}, "not a readable NumPy archive"),
        ({"user_id": np.array([7, 7])}, "user 7 is there 2 times, expected once"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_sequence_arrays(_archive(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"", b"user\titem\n", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    with pytest.raises(DataError, match="not a readable NumPy archive"):
        read_sequence_arrays(_write(tmp_path, content, "bad.npz"))


def test_a_damaged_archive_is_refused(tmp_path):
    path = _archive(tmp_path)
    content = bytearray(path.read_bytes())
    place = content.index(b"\x93NUMPY") + 130
    content[place] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="not a readable NumPy archive"):
        read_sequence_arrays(path)


def test_movielens_layout(shared_data):
    sequences = read_sequence_arrays(shared_data / "ml1m_sequences.npz")
    assert (len(sequences.user_ids), len(sequences.codes), len(sequences.vocabulary)) == (6040, 1_000_209, 3706)
    lengths = sequences.lengths
    assert (lengths.min(), np.median(lengths), lengths.max()) == (20, 96, 2314)
