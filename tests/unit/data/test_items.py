"""Items files, and what is missing in them."""

import numpy as np
import pytest

from erel_jax.data.items import align_pictures, align_texts, read_items
from erel_jax.errors import DataError


def _write(tmp_path, text):
    path = tmp_path / "items.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def test_titles_stay_raw_unless_asked(tmp_path):
    path = _write(tmp_path, "a\tSalt &amp; Pepper\nb\tPlain\n")
    assert read_items(path).texts == ("Salt &amp; Pepper", "Plain")
    assert read_items(path, unescape=True).texts == ("Salt & Pepper", "Plain")


def test_third_column_joins_the_text(tmp_path):
    items = read_items(_write(tmp_path, "1\tToy Story (1995)\tAnimation|Comedy\n2\t\tDrama\n"))
    assert items.ids == ("1", "2")
    assert items.texts == ("Toy Story (1995) Animation Comedy", "Drama")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a\tx\nb\n", ["line 2", "got 1 columns", "expected 2", "as in line 1"]),
        ("a\tx\nb\ty\tz\n", ["line 2", "got 3 columns", "expected 2"]),
        ("a\n", ["line 1", "got 1 columns", "item<TAB>title"]),
        ("a\t1\t2\t3\n", ["line 1", "got 4 columns"]),
        ("a\tx\n\ty\n", ["line 2", "item id is empty"]),
        ("a\tx\nb\ty\na\tz\n", ["line 3", "'a'", "line 1"]),
        ("", ["empty"]),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, text, parts):
    path = _write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_items(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_missing_texts_are_masked_and_counted(tmp_path):
    items = read_items(_write(tmp_path, "a\tx\nb\t  \nc\tz\n"))
    aligned = align_texts(items, ["c", "b", "nowhere", "a"])
    assert aligned.texts == ("", "z", "", "", "x")
    np.testing.assert_array_equal(aligned.present, [False, True, False, False, True])
    assert aligned.missing == 2


def test_missing_pictures_are_masked_and_counted():
    aligned = align_pictures(["posters/10.jpg", "posters/7.PNG", "readme.txt"], ["7", "8", "10"])
    assert aligned.names == ("", "posters/7.PNG", "", "posters/10.jpg")
    np.testing.assert_array_equal(aligned.present, [False, True, False, True])
    assert aligned.missing == 1
    with pytest.raises(DataError, match="two pictures for item '7'"):
        align_pictures(["a/7.jpg", "b/7.png"], ["7"])


def test_movielens_titles_and_missing_posters(shared_data):
    import zipfile

    from erel_jax.data.sequence_splits import split_sequences
    from erel_jax.data.sequences import read_sequence_arrays

    items = read_items(shared_data / "ml1m_movies.tsv")
    sequences = read_sequence_arrays(shared_data / "ml1m_sequences.npz")
    data = split_sequences(sequences, item_order=items.ids, max_length=2400)
    assert data.item_count == 3706
    assert align_texts(items, data.item_ids).missing == 0
    with zipfile.ZipFile(shared_data / "ml1m_posters_96x144.zip") as archive:
        assert align_pictures(archive.namelist(), data.item_ids).missing == 450
