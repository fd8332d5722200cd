"""Data sets as files and folders, and MovieLens-1M read in place."""

import gzip
import json

import numpy as np
import pytest

from erel_jax.data.item_sources import read_item_sources
from erel_jax.errors import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "users.tsv").write_text("u\ta b\nv\tb c\n")
    (tmp_path / "items.tsv").write_text("a\tone\nb\ttwo\n")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "plot.tsv").write_text("c\tlong story\n")
    (tmp_path / "images").mkdir()
    return tmp_path


def test_a_folder_gives_every_modality_it_holds(folder, tmp_path):
    found = read_item_sources(folder)
    assert list(found.texts) == ["text", "plot"] and found.texts["plot"].ids == ("c",)
    assert found.images == folder / "images" and found.sequences.user_ids == ("u", "v")
    other = tmp_path / "other.tsv"
    other.write_text("a\tONE\n")
    given = read_item_sources(folder, items=other, images=tmp_path)
    assert given.texts["text"].texts == ("ONE",) and given.images == tmp_path and "plot" in given.texts


def test_a_file_has_what_is_named_beside_it(folder):
    alone = read_item_sources(folder / "users.tsv")
    assert not alone.texts and alone.images is None
    assert list(read_item_sources(folder / "users.tsv", items=folder / "items.tsv").texts) == ["text"]


def write_movielens(folder):
    np.savez(folder / "ml1m_sequences.npz", user_id=[1], offsets=[0, 3], movie_id=np.array([5, 2, 9], np.int16))
    (folder / "ml1m_movies.tsv").write_text("2\tHeat (1995)\tAction|Crime\n5\tJaws (1975)\tThriller\n")
    records = [{"movie_id": 2, "plot": "A robbery."}, {"movie_id": 5, "plot": "N/A"}]
    (folder / "ml1m_omdb.json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))


def test_movielens_has_titles_genres_and_plots(tmp_path):
    write_movielens(tmp_path)
    for given in (tmp_path, tmp_path / "ml1m_sequences.npz"):
        found = read_item_sources(given)
        assert {name: items.texts for name, items in found.texts.items()} == {
            "text": ("Heat (1995)", "Jaws (1975)"), "genre": ("Action Crime", "Thriller"), "plot": ("A robbery.", ""),
        }  # fmt: skip
        assert found.images is None and found.sequences.user_ids == ("1",)


def test_the_real_movielens_folder(shared_data):
    found = read_item_sources(shared_data)
    assert len(found.sequences.user_ids) == 6040 and len(found.sequences.codes) == 1_000_209
    assert [len(items.ids) for items in found.texts.values()] == [3883] * 3
    assert sum(bool(plot) for plot in found.texts["plot"].texts) == 3856
    assert found.images is not None and found.images.name == "ml1m_posters_96x144.zip"


def test_what_is_missing_or_damaged_is_named(folder, tmp_path):
    (folder / "texts" / "image.tsv").write_text("a\tx\n")
    with pytest.raises(DataError, match="may not be called 'image'"):
        read_item_sources(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"neither users\.tsv nor sequences\.npz"):
        read_item_sources(empty)
    write_movielens(empty)
    (empty / "ml1m_omdb.json.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="not a readable list of movies"):
        read_item_sources(empty)
    (empty / "ml1m_movies.tsv").write_text("2\tHeat\tCrime\n3\tJaws\n")
    with pytest.raises(DataError, match="line 2: got 2 columns"):
        read_item_sources(empty)


def test_a_hidden_file_is_no_further_text(folder):
    (folder / "texts" / "._plot.tsv").write_bytes(b"\0\xff")
    assert list(read_item_sources(folder).texts) == ["text", "plot"]
