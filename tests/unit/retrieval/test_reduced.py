"""Fewer dimensions before a code: what is kept, at which length, and what it finds."""

import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.retrieval import search_coded, search_exact
from erel_jax.retrieval.codes import Float32, Int8PerVector, eden, principal, product, rotated, truncated
from experiments.search_codes import drawn as world
from experiments.search_codes import recall

WIDTH = 16


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_what_is_cut_has_length_one_before_it_is_coded() -> None:
    rows, queries = drawn(30), drawn(4, seed=1)
    code = truncated(WIDTH, 5)
    stored = code.encode(rows)
    np.testing.assert_allclose(stored["values"], unit(rows[:, :5]), atol=1e-6)
    np.testing.assert_allclose(np.asarray(code.project(jnp.asarray(queries))), unit(queries[:, :5]), atol=1e-6)
    found = search_coded(code, stored, queries, 3)
    scores = unit(queries[:, :5]) @ unit(rows[:, :5]).T
    np.testing.assert_array_equal(found.rows, np.argsort(-scores, axis=1)[:, :3])
    coarse = truncated(WIDTH, 5, Int8PerVector).encode(rows)
    np.testing.assert_allclose(coarse["step"], np.abs(unit(rows[:, :5])).max(axis=1) / 127, rtol=1e-6)
    assert code.width == WIDTH and code.bytes_per_vector == 20 and truncated(WIDTH, 8, eden).bytes_per_vector == 8


def test_a_row_that_keeps_nothing_stays_zero() -> None:
    rows = np.eye(WIDTH, dtype=np.float32)[-2:]
    assert not truncated(WIDTH, 5).encode(rows)["values"].any()


def test_principal_directions_are_those_of_a_singular_value_decomposition() -> None:
    sample = drawn(200) * np.linspace(2, 0.1, WIDTH, dtype=np.float32)[::-1]
    code = principal(sample, 6)
    right = np.linalg.svd(sample.astype(np.float64), full_matrices=False)[2][:6]
    overlap = np.abs(right @ np.asarray(code.basis))
    np.testing.assert_allclose(overlap, np.eye(6), atol=1e-4)
    np.testing.assert_allclose(code.kept(sample), unit(sample @ np.asarray(code.basis)), atol=1e-5)


def test_all_dimensions_turned_lose_nothing() -> None:
    rows, queries = 3 * drawn(150), drawn(4, seed=1)
    for code in (principal(rows, WIDTH), rotated(WIDTH, Float32)):
        scores = code.project(jnp.asarray(queries)) @ code.decode(code.encode(rows)).T
        np.testing.assert_allclose(scores, queries @ rows.T, atol=1e-5)


def test_principal_dimensions_find_more_than_the_first_ones_and_compose_with_any_code() -> None:
    vectors, queries = world(1500, 64, 100, 0)
    vectors, queries = vectors[:, ::-1], queries[:, ::-1]  # The first dimensions say least.
    truth = search_exact(vectors, queries, 10).rows

    def found(code) -> float:
        return recall(search_coded(code, code.encode(vectors), queries, 10).rows, truth)

    best = principal(vectors, 24)
    assert found(truncated(64, 24)) < found(best) < 1
    whole = principal(vectors, 24, lambda width: product(best.kept(vectors), 6, iterations=2))
    assert whole.bytes_per_vector == 6 and 0.2 < found(whole) < found(best)
    int8, turned = Int8PerVector(64), rotated(64, Int8PerVector)
    assert found(int8) < found(turned) + 0.005


def test_bad_reductions_are_refused() -> None:
    for kept in (0, 17):
        with pytest.raises(ConfigError, match=f"got {kept} dimensions"):
            truncated(WIDTH, kept)
        with pytest.raises(ConfigError, match=f"got {kept} dimensions"):
            principal(drawn(100), kept)
    with pytest.raises(ConfigError, match="99 rows"):
        principal(drawn(99), 4)
    with pytest.raises(ConfigError, match="inner code has width 16, expected 4"):
        truncated(WIDTH, 4, lambda _: Float32(WIDTH))
    broken = drawn(100)
    broken[7] = np.inf
    with pytest.raises(NonFiniteError, match="rows 7"):
        principal(broken, 4)
    with pytest.raises(NonFiniteError, match="rows 7"):
        truncated(WIDTH, 4).encode(broken)
    with pytest.raises(ConfigError, match="width 3"):
        truncated(WIDTH, 4).encode(drawn(5)[:, :3])
