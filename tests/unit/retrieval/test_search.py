"""Exact and screened search against NumPy."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.retrieval import screened_corpus, search_exact, search_screened


def drawn(rows: int, width: int = 16, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def exact(vectors, queries, k, **options):
    return search_exact(vectors, queries, k, block=100, **options)


def screened(vectors, queries, k, **options):
    return search_screened(screened_corpus(vectors, block=128), queries, k, batch=4, **options)


def by_numpy(vectors, queries, k, mask=None):
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    if mask is not None:
        scores[:, ~mask] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


@pytest.mark.parametrize("search", [exact, screened])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 500])
def test_hits_are_those_of_numpy(search, rows) -> None:
    vectors, queries = drawn(rows), drawn(7, seed=1)
    k = min(5, rows)
    found, (order, scores) = search(vectors, queries, k), by_numpy(vectors, queries, k)
    assert found.rows.dtype == np.int32 and found.scores.dtype == np.float32 and len(found) == 7
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


@pytest.mark.parametrize("search", [exact, screened])
def test_equal_scores_stand_in_row_order(search) -> None:
    vectors = np.repeat(drawn(3), 100, axis=0)
    found = search(vectors, drawn(3), 4)
    np.testing.assert_array_equal(found.rows, np.arange(3)[:, None] * 100 + np.arange(4))


@pytest.mark.parametrize("search", [exact, screened])
def test_what_is_not_there_is_not_found(search) -> None:
    found = search(drawn(3), -drawn(3), 200)
    assert found.rows.shape == (3, 200)
    for row in found.rows:
        assert sorted(row[:3]) == [0, 1, 2] and set(row[3:]) == {-1}
    assert np.isfinite(found.scores[:, :3]).all() and (found.scores[:, 3:] == -np.inf).all()


@pytest.mark.parametrize("search", [exact, screened])
def test_a_mask_hides_rows(search) -> None:
    vectors, queries = drawn(300), drawn(5, seed=2)
    mask = np.arange(300) % 3 == 0
    np.testing.assert_array_equal(search(vectors, queries, 6, mask=mask).rows, by_numpy(vectors, queries, 6, mask)[0])
    nothing = search(vectors, queries, 2, mask=np.zeros(300, bool))
    assert (nothing.rows == -1).all()


@pytest.mark.parametrize("search", [exact, screened])
def test_zero_rows_and_rows_of_any_length_are_scored_as_they_are(search) -> None:
    vectors = drawn(200) * np.geomspace(1e-6, 1e6, 200, dtype=np.float32)[:, None]
    vectors[50] = 0
    queries = np.concatenate([drawn(2, seed=3) * 1e-3, np.zeros((1, 16), np.float32)])
    found, (order, _) = search(vectors, queries, 3), by_numpy(vectors, queries, 3)
    np.testing.assert_array_equal(found.rows, order)


@pytest.mark.parametrize("search", [exact, screened])
def test_what_is_no_vector_is_refused(search) -> None:
    vectors, queries = drawn(150), drawn(2)
    broken = vectors.copy()
    broken[[7, 130], 3] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match="rows 7"):
        search(broken, queries, 1)
    with pytest.raises(NonFiniteError, match="queries"):
        search(vectors, broken[6:8], 1)
    with pytest.raises(ConfigError, match="width 8"):
        search(vectors, queries[:, :8], 1)
    with pytest.raises(ConfigError, match="k is 0"):
        search(vectors, queries, 0)
    with pytest.raises(ConfigError, match="mask"):
        search(vectors, queries, 1, mask=np.ones(3, bool))
    for odd in (queries[0], queries.astype(int), queries[:0]):
        with pytest.raises(ConfigError, match="float"):
            search(vectors, odd, 1)


@pytest.mark.parametrize("search", [exact, screened])
def test_what_float32_cannot_hold_is_refused(search) -> None:
    vectors, queries = drawn(150).astype(np.float64), drawn(2)
    vectors[9, 2] = 1e300
    with pytest.raises(NonFiniteError, match=r"rows 9, as float32"):
        search(vectors, queries, 1)
    with pytest.raises(NonFiniteError, match="queries"):
        search(drawn(150), vectors[8:10], 1)


def test_exact_search_takes_lists() -> None:
    vectors, queries = drawn(20), drawn(2, seed=1)
    np.testing.assert_array_equal(
        search_exact(vectors.tolist(), queries.tolist(), 3).rows,  # type: ignore[arg-type]
        search_exact(vectors, queries, 3).rows,
    )


def test_a_short_list_of_one_group_finds_what_is_in_it() -> None:
    vectors, queries = drawn(640), drawn(3, seed=4)
    found = search_screened(screened_corpus(vectors, block=128), queries, 3, shortlist=1)
    best = by_numpy(vectors, queries, 1)[0][:, 0]
    assert (found.rows // 64 == best[:, None] // 64).all()


@pytest.mark.parametrize("options", [{"block": 63}, {"block": 100}, {"block": 0}])
def test_blocks_hold_whole_groups(options) -> None:
    with pytest.raises(ConfigError, match="multiple of 64"):
        screened_corpus(drawn(5), **options)
