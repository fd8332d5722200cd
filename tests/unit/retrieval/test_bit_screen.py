"""The screen of three bits per dimension: its estimates beside NumPy, and what searches in lists find through it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.retrieval import Lists, build_index, lists_of, search_coded, search_exact, search_index, search_inverted
from erel_jax.retrieval.bit_screen import AskedBits, BitRows, asked_bits, bit_screen, estimates
from erel_jax.retrieval.codes import Float32, Int8PerVector, Inverted, inverted
from erel_jax.retrieval.codes.rotation import random_rotation
from erel_jax.retrieval.inverted_screened import looked_at
from experiments.search_codes import drawn as world
from experiments.search_codes import recall

WIDTH, LISTS = 96, 8
VECTORS, QUERIES = world(3000, WIDTH, 40, 0)


def screened_lists(probes: int = LISTS, **options) -> tuple[Inverted, dict, Lists]:
    code = inverted(VECTORS, LISTS, iterations=3, probes=probes, **options)
    stored = code.encode(VECTORS)
    return code, stored, lists_of(code, stored, block=32)


@pytest.mark.parametrize("width", [64, 70])
def test_estimates_are_those_of_numpy(width) -> None:
    draw = np.random.default_rng(3)
    rows, queries = draw.standard_normal((2 * 32, width)), draw.standard_normal((2, width)).astype(np.float32)
    code = Int8PerVector(width)
    stored = code.encode(rows)
    screen = bit_screen(code, {name: jnp.asarray(v.reshape(2, 32, *v.shape[1:])) for name, v in stored.items()})
    found = np.asarray(estimates(screen.rows, asked_bits(screen, jnp.asarray(queries))))

    rotation = random_rotation(width).astype(np.float64)
    turned = (stored["codes"] * stored["step"][:, None].astype(np.float64)) @ rotation.T
    spread = 0.586 * np.sqrt((turned**2).mean(axis=1, keepdims=True))
    levels = 2 * np.clip(np.floor(turned / spread), -4, 3) + 1
    scale = (turned**2).sum(axis=1) / (levels * turned).sum(axis=1)
    asked = queries @ rotation.T
    step = np.abs(asked).max(axis=1, keepdims=True) / 7.5
    rounded = (np.clip(np.round(asked / step + 7.5), 0, 15) - 7.5) * step
    expected = np.einsum("trd,td->tr", (levels * scale[:, None]).reshape(2, 32, width), rounded)
    # Every fourth row first.
    expected = expected.reshape(2, 8, 4).swapaxes(1, 2).reshape(2, 32)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_estimates_are_neither_shrunk_nor_stretched_and_as_rough_as_their_bits() -> None:
    draw = np.random.default_rng(4)
    rows, query = draw.standard_normal((4096, 128)).astype(np.float32), draw.standard_normal((1, 128))
    rows += 0.3 * query.astype(np.float32)
    code = Float32(128)
    screen = bit_screen(code, {"values": jnp.asarray(rows[None])})
    asked = asked_bits(screen, jnp.asarray(query, jnp.float32))
    found = np.asarray(estimates(screen.rows, asked))[0]
    true = (rows @ query[0]).reshape(-1, 4).T.ravel()
    slope = found @ true / (true @ true)
    errors = (found - slope * true) / np.linalg.norm(rows, axis=1).mean() / np.linalg.norm(query)
    # .19 of a unit for eight levels and .11 for sixteen of the query, over the root of 128.
    assert abs(slope - 1) < 0.03 and 0.015 < errors.std() < 0.022


@pytest.mark.parametrize("residual", [True, False])
def test_hits_are_nearly_those_of_all_codes_and_scores_are_the_codes_own(residual) -> None:
    code, stored, lists = screened_lists(residual=residual)
    expected, found = search_coded(code, stored, QUERIES, 10), search_inverted(code, lists, QUERIES, 10)
    assert recall(found.rows, expected.rows) > 0.995
    own = search_coded(code, stored, QUERIES, len(VECTORS))
    scores = np.take_along_axis(own.scores, np.argsort(own.rows, axis=1), axis=1)
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, found.rows, axis=1), atol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_only_rows_that_may_be_found_are_and_all_of_them_where_they_are_few() -> None:
    code, stored, lists = screened_lists()
    few = np.zeros(len(VECTORS), bool)
    few[[5, 6, 7, 700, 2999]] = True
    found, expected = (
        search_inverted(code, lists, QUERIES, 8, mask=few),
        search_coded(code, stored, QUERIES, 8, mask=few),
    )
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert (found.rows[:, 5:] == -1).all()
    half = np.arange(len(VECTORS)) % 2 == 0
    found = search_inverted(code, lists, QUERIES, 10, mask=half).rows
    assert recall(found, search_coded(code, stored, QUERIES, 10, mask=half).rows) > 0.995 and (found % 2 == 0).all()


def test_parts_of_a_batch_single_queries_and_more_hits_than_rows() -> None:
    code, stored, lists = screened_lists(probes=2)
    found = search_inverted(code, lists, QUERIES, 10)
    for number in (0, 17, 39):
        np.testing.assert_array_equal(search_inverted(code, lists, QUERIES[[number]], 10).rows[0], found.rows[number])
    held = np.isin(stored["list"], np.argsort(-(np.asarray(code.centroids) @ QUERIES[0]))[:2])
    every = search_inverted(code, lists, QUERIES[:1], len(VECTORS))
    assert sorted(every.rows[0][every.rows[0] >= 0]) == np.flatnonzero(held).tolist()
    assert (every.scores[0, held.sum() :] == -np.inf).all()
    narrow = dataclasses.replace(code, margin=0.0)
    nearest = stored["list"][search_inverted(narrow, lists, QUERIES, 5).rows]
    assert (nearest == np.argmax(QUERIES @ np.asarray(code.centroids).T, axis=1)[:, None]).all()


@pytest.mark.parametrize(("size", "asked"), [(1e30, 1e-30), (1e-25, 1e25), (1e34, 1e-33)])
def test_long_and_short_vectors_are_found_as_others(size, asked) -> None:
    code, _, lists = screened_lists()
    expected = search_inverted(code, lists, QUERIES, 10).rows
    scaled = dataclasses.replace(code, centroids=code.centroids * size)
    lists = lists_of(scaled, scaled.encode(VECTORS * np.float32(size)), block=32)
    assert recall(search_inverted(scaled, lists, QUERIES * np.float32(asked), 10).rows, expected) > 0.99


def test_equal_rows_stand_in_row_order_and_zeros_are_rows_too() -> None:
    same = np.concatenate([np.repeat(VECTORS[:1], 50, axis=0), np.zeros((3, WIDTH), np.float32)])
    code = inverted(np.concatenate([same, VECTORS]), 4, lambda _: Int8PerVector(WIDTH), probes=4, residual=False)
    lists = lists_of(code, code.encode(same), block=32)
    found = search_inverted(code, lists, same[:1], 60)
    assert found.rows[0, :50].tolist() == list(range(50)) and sorted(found.rows[0, 50:53]) == [50, 51, 52]
    assert (found.rows[0, 53:] == -1).all()
    nothing = search_inverted(code, lists, np.zeros((2, WIDTH), np.float32), 60)
    assert sorted(nothing.rows[0, :53]) == list(range(53)) and (nothing.scores[:, :53] == 0).all()


def test_narrow_codes_and_codes_of_another_kind_are_all_scored() -> None:
    narrow = inverted(VECTORS[:, :32], 4, probes=4)
    floats = inverted(VECTORS, 4, lambda rest: Float32(rest.shape[1]), probes=4)
    assert lists_of(narrow, narrow.encode(VECTORS[:, :32])).filed.screen is None
    assert lists_of(floats, floats.encode(VECTORS)).filed.screen is None
    _, _, lists = screened_lists()
    assert lists.filed.screen is not None
    # Three bits per dimension and two numbers per row.
    bytes_of = sum(side.nbytes for side in jax.tree.leaves(lists.filed.screen.rows))
    assert bytes_of == lists.filed.rows.size * (3 * WIDTH // 8 + 8)


def test_an_index_searches_through_the_screen() -> None:
    code, _, _ = screened_lists()
    index = build_index(np.arange(len(VECTORS)), VECTORS, code=code, keep_vectors=True, sample=20)
    assert index.measured is not None and index.measured.recall > 0.99
    truth = search_exact(VECTORS, QUERIES, 10).rows
    assert recall(search_index(index, QUERIES, 10).ids, truth) > 0.995


def test_a_turn_of_the_screen_takes_few_operations() -> None:
    """Counts of common bits only: no product of the codes is left for rows that are not looked at."""
    assert [looked_at(k) for k in (1, 10, 100)] == [18, 36, 216]
    rows = BitRows(planes=jnp.zeros((1, 3, 3, 32), jnp.uint32), scale=jnp.ones((1, 32)), shift=jnp.ones((1, 32)))
    asked = AskedBits(planes=jnp.zeros((1, 4, 3), jnp.uint32), scale=jnp.ones(1), shift=jnp.zeros(1))
    text = str(jax.make_jaxpr(estimates)(rows, asked))
    assert text.count("population_count") == 3 * 4 * 3 and "dot_general" not in text
