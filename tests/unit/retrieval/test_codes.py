"""Every code: what it stores, what it estimates, and how well it ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.retrieval import rescored, search_coded, search_exact
from erel_jax.retrieval.codes import (
    Binary,
    Float32,
    Int8PerVector,
    Reduced,
    eden,
    int8_per_dimension,
    normal_levels,
    principal,
    product,
    residual,
    truncated,
)
from erel_jax.retrieval.codes.bits import pack, unpack
from erel_jax.retrieval.codes.rotation import random_rotation

WIDTH = 24


def drawn(rows: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def clustered(rows: int, width: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around centers with a falling spectrum, and noisy copies of some of them."""
    draw = np.random.default_rng(0)
    spectrum = 1 / np.sqrt(1 + np.arange(width) / 8)
    centers = draw.standard_normal((rows // 50, width))
    vectors = (centers[draw.integers(0, len(centers), rows)] + 0.7 * draw.standard_normal((rows, width))) * spectrum
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = draw.standard_normal((queries, width)) * spectrum
    asked = vectors[:queries] + 0.5 * noise / np.linalg.norm(spectrum)
    return vectors.astype(np.float32), asked.astype(np.float32)


CODES = {
    "float32": (Float32(WIDTH), 4 * WIDTH, 1e-6),
    "int8_per_vector": (Int8PerVector(WIDTH), WIDTH + 4, 0.02),
    "int8_per_dimension": (int8_per_dimension(drawn(200)), WIDTH, 0.02),
    "binary": (Binary(WIDTH), WIDTH // 8, None),
    **{f"eden{bits}": (eden(WIDTH, bits), bits * WIDTH // 8 + 4, None) for bits in (1, 2, 3, 4, 8)},
    "product": (product(drawn(300), 6, iterations=2), 6, None),
    "product4": (product(drawn(300), 12, bits=4, rotation="none", iterations=2), 8, None),
    "residual4": (residual(drawn(300), 8, bits=4, iterations=2), 4, None),
}
LENGTHLESS = ("binary", "product", "product4", "residual4")
"""Codes that give a row of zeros the nearest of a few lengths."""


@pytest.mark.parametrize("name", CODES)
def test_every_code_keeps_the_contract(name) -> None:
    code, size, error = CODES[name]
    vectors, queries = drawn(9), drawn(4, seed=1)
    stored = code.encode(vectors)
    assert all(len(array) == 9 for array in stored.values())
    assert code.width == WIDTH and code.bytes_per_vector == size == sum(a[0].nbytes for a in stored.values())
    scores = code.project(jnp.asarray(queries)) @ code.decode(stored).T
    compiled = jax.jit(lambda code, stored, q: code.project(q) @ code.decode(stored).T)(code, stored, queries)
    np.testing.assert_allclose(compiled, scores, atol=1e-5)
    if error is not None:
        np.testing.assert_allclose(scores, queries @ vectors.T, atol=error)
    # A row's code does not depend on the rows beside it.
    alone = code.encode(vectors[3:4])
    for part, array in alone.items():
        np.testing.assert_allclose(array[0], stored[part][3], rtol=1e-6)
    found = search_coded(code, stored, queries, 3, block=4)
    order = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :3]
    np.testing.assert_allclose(found.scores, np.take_along_axis(np.asarray(scores), order, 1), atol=1e-5)
    bad = vectors.copy()
    bad[2, 0] = np.nan
    with pytest.raises(NonFiniteError, match="rows 2"):
        code.encode(bad)
    with pytest.raises(ConfigError, match="width 3"):
        code.encode(vectors[:, :3])


@pytest.mark.parametrize("name", CODES)
def test_a_zero_row_is_stored(name) -> None:
    code = CODES[name][0]
    scores = code.project(jnp.asarray(drawn(2))) @ code.decode(code.encode(np.zeros((1, WIDTH), np.float32))).T
    assert np.isfinite(scores).all() and (name in LENGTHLESS or np.abs(scores).max() < 0.02)


def test_levels_are_those_of_faiss_and_of_the_half_normal_mean() -> None:
    np.testing.assert_allclose(normal_levels(1), [-np.sqrt(2 / np.pi), np.sqrt(2 / np.pi)], atol=1e-6)
    np.testing.assert_allclose(normal_levels(2)[2:], [0.452780, 1.510418], atol=1e-5)
    expected = [0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259]
    np.testing.assert_allclose(normal_levels(4)[8:], expected, atol=1e-4)
    with pytest.raises(ConfigError, match="1 to 8"):
        normal_levels(9)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_eden_is_right_on_average(bits) -> None:
    """The slope of estimated on true inner products is 1; the biased scale shrinks them."""
    vectors, queries = clustered(2000, 64, 50)
    truth = (queries @ vectors.T).ravel()

    def slope(unbiased: bool) -> float:
        code = eden(64, bits, unbiased=unbiased)
        found = code.project(jnp.asarray(queries)) @ code.decode(code.encode(vectors)).T
        return float(truth @ np.asarray(found).ravel() / (truth @ truth))

    assert slope(True) == pytest.approx(1.0, abs=0.02)
    assert slope(False) < 0.99


def test_one_bit_is_the_estimator_of_rabitq() -> None:
    """RaBitQ: ⟨o, q⟩ ≈ ⟨ō, Rq⟩ / ⟨ō, Ro⟩ for unit o and its signs ō = ±1/√E."""
    vectors, queries = drawn(50), drawn(7, seed=2)
    code = eden(WIDTH, 1)
    turn = np.asarray(code.rotation, np.float64)
    turned = vectors @ turn.T
    signs = np.where(turned > 0, 1, -1) / np.sqrt(WIDTH)
    expected = (queries @ turn.T) @ signs.T / np.sum(signs * turned, axis=1)
    found = code.project(jnp.asarray(queries)) @ code.decode(code.encode(vectors)).T
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_more_bits_rank_better_and_scoring_again_repairs() -> None:
    vectors, queries = clustered(5000, 128, 60)
    truth = search_exact(vectors, queries, 10).rows

    def recall(rows: np.ndarray) -> float:
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth, strict=True)]))

    found = {}
    for bits in (1, 2, 3, 4):
        code = eden(128, bits)
        found[bits] = recall(search_coded(code, code.encode(vectors), queries, 10).rows)
    assert found[1] < found[2] < found[3] < found[4] and found[4] > 0.85
    code = eden(128, 1)
    hits = search_coded(code, code.encode(vectors), queries, 40)
    again = rescored(hits, vectors, queries, 10)
    assert recall(again.rows) > 0.9 > found[1]
    exact = np.einsum("qke,qe->qk", vectors[again.rows], queries)
    np.testing.assert_allclose(again.scores, exact, atol=1e-5)
    assert (np.diff(again.scores, axis=1) <= 0).all()


def test_scoring_again_keeps_empty_places_last() -> None:
    vectors, queries = drawn(3), drawn(2, seed=5)
    again = rescored(search_exact(vectors, queries, 6), vectors, queries, 5)
    assert (again.rows[:, 3:] == -1).all() and (again.rows[:, :3] >= 0).all()
    with pytest.raises(ConfigError, match="k is 7"):
        rescored(search_exact(vectors, queries, 6), vectors, queries, 7)
    for other in (vectors[:, :8], vectors[:2], vectors[:0], vectors[0]):
        with pytest.raises(ConfigError, match="of one width, and all the rows"):
            rescored(search_exact(vectors, queries, 3), other, queries, 2)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
@pytest.mark.parametrize(
    "code",
    [eden(WIDTH, 4), eden(WIDTH, 4, unbiased=False), truncated(WIDTH, 12, eden), principal(drawn(200), 12)],
    ids=["eden", "biased", "truncated", "principal"],
)
def test_the_length_of_vectors_does_not_change_their_order(code, scale) -> None:
    vectors, queries = drawn(200), drawn(5, seed=3)
    usual, other = (search_coded(code, code.encode(vectors * np.float32(by)), queries, 10) for by in (1, scale))
    np.testing.assert_array_equal(other.rows, usual.rows)
    if isinstance(code, Reduced):
        asked = code.project(jnp.asarray(queries * np.float32(scale)))
        np.testing.assert_allclose(asked, code.project(jnp.asarray(queries)), atol=1e-6)
    else:
        np.testing.assert_allclose(other.scores, usual.scores * scale, rtol=1e-5)


@pytest.mark.parametrize(("bits", "width"), [(1, 8), (3, 13), (8, 5)])
def test_packing_is_undone(bits, width) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (7, width)).astype(np.uint8)
    np.testing.assert_array_equal(unpack(jnp.asarray(pack(values, bits)), bits, width), values)


def test_rotations_are_orthogonal_and_repeatable() -> None:
    turn = random_rotation(40, seed=3)
    np.testing.assert_allclose(turn @ turn.T, np.eye(40), atol=1e-5)
    np.testing.assert_array_equal(turn, random_rotation(40, seed=3))
    assert np.abs(turn - random_rotation(40, seed=4)).max() > 0.1
    with pytest.raises(ConfigError, match="width is 0"):
        random_rotation(0)


def test_ranges_want_a_sample() -> None:
    with pytest.raises(ConfigError, match="at least 100"):
        int8_per_dimension(drawn(99))
    code = int8_per_dimension(drawn(100))
    assert int(code.encode(np.full((1, WIDTH), 9.0, np.float32))["codes"].min()) == 255
