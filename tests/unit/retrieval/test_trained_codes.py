"""Product and residual quantization against NumPy, and how they rank."""

import itertools
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import kmeans
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.retrieval import search_coded, search_exact
from erel_jax.retrieval.codes import Binary, Product, Residual, eden, inverted, product, residual
from erel_jax.retrieval.codes.bits import unpack
from erel_jax.retrieval.codes.tables import table_scores
from experiments.search_codes import drawn as world
from experiments.search_codes import recall

WIDTH = 16


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    """Rows whose first dimensions say most, so that rotations matter."""
    values = np.random.default_rng(seed).standard_normal((rows, WIDTH)) / np.arange(1, WIDTH + 1)
    return values.astype(np.float32)


def error(code: Product | Residual, rows: np.ndarray) -> float:
    """Mean squared distance of decoded rows; a rotation does not change it."""
    rebuilt = np.asarray(code.decode(code.encode(rows)))
    return float(np.square(np.asarray(code.project(jnp.asarray(rows))) - rebuilt).sum(axis=1).mean())


def lloyd_by_numpy(rows: np.ndarray, centroids: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        owner = ((rows[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
        centroids = np.stack(
            [rows[owner == c].mean(0) if (owner == c).any() else centroids[c] for c in range(len(centroids))]
        )
    return centroids


@pytest.mark.parametrize("rows", [50, 2500])
def test_centroids_are_those_of_numpy(rows) -> None:
    """2,500 rows are two tiles, the second filled up with rows that must not count."""
    values = drawn(rows)
    first = kmeans.first_rows(values, 9)
    found = kmeans.fitted(values, first, iterations=4, refill=False)
    expected = lloyd_by_numpy(values.astype(np.float64), first.astype(np.float64), 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    distances = ((values[:, None] - found[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(kmeans.nearest(values, found), distances.argmin(1))


def test_centroids_that_nothing_is_near_to_are_put_among_rows() -> None:
    values = drawn(200)
    far = np.concatenate([values[:4], np.full((4, WIDTH), 1e3, np.float32)])
    stuck = kmeans.fitted(values, far, iterations=3, refill=False)
    filled = kmeans.fitted(values, far, iterations=3)
    assert len(set(kmeans.nearest(values, stuck))) == 4 and len(set(kmeans.nearest(values, filled))) == 8


def test_products_choose_the_nearest_centroid_of_each_part() -> None:
    rows = drawn(300)
    code = product(rows, 4, bits=4, rotation="random", iterations=2, seed=3)
    turned = rows @ np.asarray(code.rotation).T
    centroids = np.asarray(code.centroids)
    chosen = np.stack(
        [((turned[:, None, 4 * s : 4 * s + 4] - centroids[s]) ** 2).sum(-1).argmin(1) for s in range(4)], axis=1
    )
    stored = code.encode(rows)
    np.testing.assert_array_equal(unpack(jnp.asarray(stored["codes"]), 4, 4), chosen)
    rebuilt = np.concatenate([centroids[s][chosen[:, s]] for s in range(4)], axis=1)
    np.testing.assert_allclose(code.decode(stored), rebuilt, atol=1e-6)
    np.testing.assert_allclose(np.asarray(code.rotation).T @ np.asarray(code.rotation), np.eye(WIDTH), atol=1e-5)


def test_a_full_beam_finds_the_best_sum_of_all() -> None:
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((60, WIDTH)).astype(np.float32)
    centroids = draw.standard_normal((2, 16, WIDTH)).astype(np.float32)
    code = Residual(centroids=jnp.asarray(centroids), beam=16)
    sums = {(a, b): centroids[0, a] + centroids[1, b] for a, b in itertools.product(range(16), repeat=2)}
    best = [min(sums, key=lambda pair, row=row: ((row - sums[pair]) ** 2).sum()) for row in rows]
    np.testing.assert_array_equal(unpack(jnp.asarray(code.encode(rows)["codes"]), 4, 2), best)
    greedy = Residual(centroids=code.centroids, beam=1)
    first = ((rows[:, None] - centroids[0]) ** 2).sum(-1).argmin(1)
    second = ((rows[:, None] - centroids[0][first][:, None] - centroids[1]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(unpack(jnp.asarray(greedy.encode(rows)["codes"]), 4, 2), np.stack([first, second], 1))
    assert error(code, rows) < error(greedy, rows)


def test_tables_sum_up_by_hand() -> None:
    tables = jnp.asarray([[[1.0, 2.0], [10.0, 20.0]]])
    found = table_scores(tables, jnp.asarray([[0, 0], [1, 0], [1, 1]], jnp.int32))
    assert found.tolist() == [[11.0, 12.0, 22.0]]


def test_few_queries_by_tables_score_as_many_by_products() -> None:
    rows, queries = drawn(300), drawn(9, seed=1)
    for code in (product(rows, 4, iterations=1), residual(rows, 3, bits=4, beam=2, iterations=1)):
        stored = code.encode(rows)
        many = search_coded(code, stored, queries, 3)
        single = [search_coded(code, stored, query[None], 3) for query in queries[:3]]
        np.testing.assert_allclose(many.scores[:3], np.concatenate([one.scores for one in single]), atol=1e-5)


def test_more_centroids_stages_and_better_rotations_err_less() -> None:
    rows = drawn(600)
    errors = [error(residual(rows, stages, bits=4, beam=3, iterations=4), rows) for stages in (1, 2, 4)]
    assert (np.diff(errors) < 0).all()
    assert error(residual(rows, 2, bits=8, beam=3, iterations=4), rows) < errors[1]
    plain, random, fitted = (
        error(product(rows, 4, bits=4, rotation=kind, iterations=4, turns=5), rows)
        for kind in ("none", "random", "fitted")
    )
    assert fitted < min(plain, random)
    assert error(product(rows, 4, bits=8, iterations=4), rows) < random
    assert error(product(rows, 2, bits=4, iterations=4), rows) > random


@pytest.mark.slow
def test_codes_rank_as_they_are_known_to() -> None:
    """Binary < product quantization < after a random rotation ≤ after a fitted one, at the same bytes."""
    vectors, queries = world(3000, 64, 200, 0)
    truth = search_exact(vectors, queries, 10).rows
    found = {}
    for name, code in {
        "binary": Binary(64),
        "plain": product(vectors, 8, rotation="none", iterations=5),
        "random": product(vectors, 8, rotation="random", iterations=5),
        "fitted": product(vectors, 8, rotation="fitted", iterations=5, turns=4),
        "residual": residual(vectors, 8, beam=2, iterations=4),
        "eden": eden(64, 4),
    }.items():
        found[name] = recall(search_coded(code, code.encode(vectors), queries, 10).rows, truth)
    assert found["binary"] < found["plain"] < found["random"] < found["residual"] < 1
    assert found["random"] - 0.01 < found["fitted"] and found["random"] < found["eden"]


@pytest.mark.parity
def test_recall_is_that_of_faiss() -> None:
    faiss = pytest.importorskip("faiss", reason="parity with faiss needs it: pip install 'erel-jax[peers]'")
    vectors, queries = world(3000, 64, 200, 1)
    truth = search_exact(vectors, queries, 10).rows
    peer = faiss.IndexPQ(64, 8, 8, faiss.METRIC_INNER_PRODUCT)
    peer.train(vectors)
    peer.add(vectors)
    code = product(vectors, 8, rotation="none", iterations=25)
    ours = recall(search_coded(code, code.encode(vectors), queries, 10).rows, truth)
    assert ours == pytest.approx(recall(peer.search(queries, 10)[1], truth), abs=0.03)


def test_bad_samples_and_settings_are_refused() -> None:
    rows = drawn(300)
    broken = rows.copy()
    broken[3, 1] = np.nan
    for fit in (lambda sample: product(sample, 4), lambda sample: residual(sample, 2)):
        with pytest.raises(ConfigError, match="255 rows, expected at least 256"):
            fit(rows[:255])
        with pytest.raises(NonFiniteError, match="rows 3"):
            fit(broken)
        with pytest.raises(ConfigError, match="float"):
            fit(rows.astype(int))
    with pytest.raises(ConfigError, match="5 parts for width 16"):
        product(rows, 5)
    for wrong in ({"bits": 5}, {"rotation": "pca"}, {"turns": 0}, {"iterations": 0}):
        options: Any = wrong
        with pytest.raises(ConfigError, match="expected"):
            product(rows, 4, **options)
    for options in ({"bits": 5}, {"beam": 0}, {"beam": 257}, {"iterations": 0}):
        with pytest.raises(ConfigError, match="expected"):
            residual(rows, 2, **options)
    with pytest.raises(ConfigError, match="stages=0"):
        residual(rows, 0)


@pytest.mark.parametrize("power", [-80, 80])
@pytest.mark.parametrize(
    "fit",
    [
        partial(product, parts=4, bits=4, rotation="none"),
        partial(residual, stages=2, bits=4),
        partial(inverted, lists=8, inner=partial(product, parts=4, bits=4)),
    ],
)
def test_codes_do_not_depend_on_the_magnitude_of_rows(fit, power: int) -> None:
    """By a power of two nothing is rounded, but squares of such rows are beyond float32."""
    rows, scale = drawn(300), np.float32(2.0**power)
    expected, found = (fit(values).encode(values) for values in (rows, rows * scale))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
