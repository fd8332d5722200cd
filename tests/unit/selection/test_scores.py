"""Cosines of pairs and filters by score."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.selection import embedding_fingerprint, filter_by_score, pair_cosines


def _stream(array, size):
    return lambda: (array[start : start + size] for start in range(0, len(array), size))


def test_cosines_of_arrays_and_of_streams_cut_differently():
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(2, 23, 4)).astype(np.float32)
    items[3] = 0
    expected = [q @ i / max(np.linalg.norm(q) * np.linalg.norm(i), 1e-9) for q, i in zip(queries, items, strict=True)]
    np.testing.assert_allclose(pair_cosines(queries, items), expected, atol=1e-6)
    streamed = pair_cosines(_stream(queries, 5), _stream(items, 9), rows=4)
    np.testing.assert_allclose(streamed, expected, atol=1e-6)
    assert streamed[3] == 0


@pytest.mark.parametrize("size", [1e30, 1e-25])
def test_cosines_do_not_depend_on_lengths(size):
    queries, items = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    scaled = pair_cosines(queries * np.float32(size), items * np.float32(size))
    np.testing.assert_allclose(scaled, pair_cosines(queries, items), atol=1e-6)


def test_digest_does_not_depend_on_blocks():
    rows = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    assert embedding_fingerprint(rows) == embedding_fingerprint(_stream(rows, 4))
    assert embedding_fingerprint(rows) != embedding_fingerprint(rows[:, :2])
    assert embedding_fingerprint(rows) != embedding_fingerprint(rows[::-1])


def test_threshold_and_top_share():
    scores = np.array([0.3, 0.1, 0.3, 0.2], np.float32)
    assert filter_by_score(scores, threshold=0.2).kept.tolist() == [0, 2, 3]
    assert filter_by_score(scores, top_share=0.25).kept.tolist() == [0]
    assert filter_by_score(scores, top_share=0.5).kept.tolist() == [0, 2]
    outcome = filter_by_score(scores, top_share=0.01)
    assert outcome.kept.tolist() == [0]
    assert outcome.counts() == {"low_score": 3}


def test_bad_scores():
    with pytest.raises(NonFiniteError, match=r"first rows \[1, 2\]"):
        filter_by_score(np.array([0.0, np.nan, np.inf]), threshold=0)
    with pytest.raises(DataError, match="would remove all 2 rows"):
        filter_by_score(np.zeros(2), threshold=0.5)
    with pytest.raises(ConfigError, match="exactly one"):
        filter_by_score(np.zeros(2))
    with pytest.raises(ConfigError, match="top_share is 0"):
        filter_by_score(np.zeros(2), top_share=0)
    with pytest.raises(ConfigError, match=r"scores are float64\[2, 1\]"):
        filter_by_score(np.zeros((2, 1)), top_share=0.5)
    with pytest.raises(ConfigError, match="threshold is nan"):
        filter_by_score(np.zeros(2), threshold=float("nan"))


def test_bad_embeddings():
    rows = np.ones((6, 3), np.float32)
    with pytest.raises(DataError, match="items end after 5 rows"):
        pair_cosines(rows, rows[:5], rows=4)
    with pytest.raises(DataError, match="queries end after 5 rows"):
        pair_cosines(rows[:5], rows, rows=4)
    with pytest.raises(DataError, match="more items"):
        pair_cosines(rows[:4], rows, rows=4)
    with pytest.raises(ConfigError, match="queries have width 3 and items 2"):
        pair_cosines(rows, rows[:, :2])
    bad = rows.copy()
    bad[4, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"items: 1 rows .* first rows \[4\]"):
        pair_cosines(rows, bad, rows=3)
    with pytest.raises(ConfigError, match="have width 2, expected 3"):
        pair_cosines(lambda: iter([rows[:3], rows[3:, :2]]), rows)
    with pytest.raises(ConfigError, match="wrap what makes it in a function"):
        pair_cosines(iter([rows]), rows)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="got int64"):
        pair_cosines(rows.astype(np.int64), rows)
    with pytest.raises(DataError, match="no rows"):
        pair_cosines(rows[:0], rows)
