"""Inverted lists: what is filed where, what a search in them finds, and indexes built of them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError, CorruptArtifactError, NonFiniteError
from erel_jax.retrieval import (
    add,
    build_index,
    delete,
    lists_of,
    load_index,
    probing,
    rescored,
    save_index,
    search_coded,
    search_exact,
    search_index,
    search_inverted,
)
from erel_jax.retrieval.codes import Float32, Inverted, eden, inverted, margin_for, product
from erel_jax.retrieval.inverted_work import planned
from experiments.search_codes import drawn as world
from experiments.search_codes import recall

WIDTH, LISTS = 16, 12
VECTORS, QUERIES = world(700, WIDTH, 30, 0)
INNER = {
    "int8": None,
    "float32": lambda rest: Float32(rest.shape[1]),
    "eden": lambda rest: eden(rest.shape[1], 4),
    "product": lambda rest: product(rest, 8, bits=4, iterations=2),
}


def fitted(inner: str = "float32", **options) -> Inverted:
    return inverted(VECTORS, LISTS, INNER[inner], iterations=3, **options)


def by_numpy(code: Inverted, mask: np.ndarray | None = None, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the lists whose centroids score highest, by exact products."""
    centroids = np.asarray(code.centroids)
    owner = ((VECTORS[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
    rows, scores = np.full((len(QUERIES), k), -1), np.full((len(QUERIES), k), -np.inf)
    for number, query in enumerate(QUERIES):
        near = np.argsort(-(centroids @ query), kind="stable")[: code.probes]
        found = np.flatnonzero(np.isin(owner, near) & (True if mask is None else mask))
        best = found[np.argsort(-(VECTORS[found] @ query), kind="stable")[:k]]
        rows[number, : len(best)], scores[number, : len(best)] = best, VECTORS[best] @ query
    return rows, scores


@pytest.mark.parametrize(("probes", "residual"), [(4, True), (1, False)])
def test_hits_are_those_of_numpy(probes, residual) -> None:
    code = fitted(probes=probes, residual=residual)
    lists = lists_of(code, code.encode(VECTORS), block=32)
    found, (rows, scores) = search_inverted(code, lists, QUERIES, 10), by_numpy(code)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    mask = np.arange(len(VECTORS)) % 5 == 0
    np.testing.assert_array_equal(search_inverted(code, lists, QUERIES, 10, mask=mask).rows, by_numpy(code, mask)[0])
    one = [search_inverted(code, lists, query[None], 10).rows[0] for query in QUERIES[:2]]
    np.testing.assert_array_equal(one, rows[:2])


@pytest.mark.parametrize("inner", INNER)
def test_looking_into_all_lists_is_looking_at_all_rows(inner) -> None:
    code = fitted(inner, probes=LISTS)
    stored = code.encode(VECTORS)
    assert sum(part[0].nbytes for part in stored.values()) == code.bytes_per_vector
    found = search_inverted(code, lists_of(code, stored), QUERIES, 10)
    expected = search_coded(code, stored, QUERIES, 10)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_lists_hold_every_row_once_beside_its_code() -> None:
    code = fitted()
    lists = lists_of(code, code.encode(VECTORS), block=64)
    rows, values = np.asarray(lists.filed.rows), np.asarray(lists.filed.parts["values"])
    assert sorted(rows[rows >= 0]) == list(range(len(VECTORS)))
    owner = np.repeat(np.arange(LISTS), np.diff(lists.starts))
    rebuilt = values + np.asarray(code.centroids)[owner][:, None]
    np.testing.assert_allclose(rebuilt[rows >= 0], VECTORS[rows[rows >= 0]], atol=1e-6)
    assert all((np.diff(block[block >= 0]) > 0).all() for block in rows)


def test_work_reads_a_block_once_for_all_its_queries() -> None:
    """Lists of 1, 2 and 0 blocks; queries 0 and 1 look into the first two, query 2 into the last two."""
    work = planned(
        np.array([[0, 1], [1, 0], [2, 1]]), np.array([[1, 2], [3, 4], [5, 6]], np.float32), np.array([0, 1, 3, 3])
    )
    assert (work.lanes, int(work.count)) == (2, 5) and work.blocks[:5].tolist() == [0, 1, 1, 2, 2]
    assert work.queries[:5].tolist() == [[0, 1], [0, 1], [2, 0], [0, 1], [2, 0]]
    assert work.base[:5].tolist() == [[1, 4], [2, 3], [6, 0], [2, 3], [6, 0]]
    assert work.slots.tolist() == [[0, 2, 6, -1], [1, 3, 7, -1], [4, 8, -1, -1]]


def test_more_probes_find_more_and_residuals_are_coded_more_finely() -> None:
    truth = search_exact(VECTORS, QUERIES, 10).rows
    code = fitted("int8")
    lists = lists_of(code, code.encode(VECTORS))
    found = [
        recall(search_inverted(dataclasses.replace(code, probes=p), lists, QUERIES, 10).rows, truth)
        for p in (1, 3, LISTS)
    ]
    assert found[0] < found[1] < found[2] and found[2] > 0.97
    plain = fitted("int8", residual=False)
    errors = [
        np.abs(
            np.asarray(one.project(jnp.asarray(QUERIES)) @ one.decode(one.encode(VECTORS)).T) - QUERIES @ VECTORS.T
        ).mean()
        for one in (code, plain)
    ]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("inner", ["int8", "eden"])
def test_a_few_rows_more_scored_again_with_the_vectors_hold_the_best_rows(inner) -> None:
    code = fitted(inner, probes=4)
    lists = lists_of(code, code.encode(VECTORS), block=32)
    close = search_inverted(code, lists, QUERIES, 40)
    np.testing.assert_array_equal(rescored(close, VECTORS, QUERIES, 10).rows, by_numpy(code)[0])
    mask = np.arange(len(VECTORS)) % 5 == 0
    close = search_inverted(code, lists, QUERIES, 24, mask=mask)
    np.testing.assert_array_equal(rescored(close, VECTORS, QUERIES, 10).rows, by_numpy(code, mask)[0])


def test_equal_rows_stand_in_row_order_and_empty_places_last() -> None:
    same = np.repeat(VECTORS[:1], 50, axis=0)
    code = inverted(np.concatenate([same, VECTORS]), 4, INNER["float32"], probes=1)
    lists = lists_of(code, code.encode(same), block=32)
    found = search_inverted(code, lists, same[:1], 60)
    assert found.rows[0].tolist() == [*range(50), *[-1] * 10] and (found.scores[0, 50:] == -np.inf).all()
    none = search_inverted(code, lists, same[:2], 3, mask=np.zeros(50, bool))
    assert (none.rows == -1).all()


def test_an_index_of_lists_grows_shrinks_and_comes_back_from_its_folder(tmp_path) -> None:
    code = fitted("product", probes=3)
    whole = build_index(np.arange(700), VECTORS, code=code, sample=0)
    expected = search_index(whole, QUERIES, 5)
    grown = add(build_index(np.arange(600), VECTORS[:600], code=code, sample=0), np.arange(600, 700), VECTORS[600:])
    np.testing.assert_array_equal(search_index(grown, QUERIES, 5).ids, expected.ids)
    gone = delete(whole, expected.ids[0, :2])
    assert gone.lists is whole.lists and search_index(gone, QUERIES[:1], 3).ids[0, 0] == expected.ids[0, 2]
    again = add(gone, expected.ids[0, :2], VECTORS[expected.ids[0, :2]])
    assert search_index(again, QUERIES[:1], 3).ids.tolist() == expected.ids[:1, :3].tolist()
    among = search_index(whole, QUERIES[:1], 2, among=np.array([expected.ids[0, 3]]))
    assert among.ids.tolist() == [[expected.ids[0, 3], -1]]
    save_index(tmp_path / "index", whole)
    loaded = load_index(tmp_path / "index")
    np.testing.assert_array_equal(search_index(loaded, QUERIES, 5).ids, expected.ids)
    assert loaded.code.bytes_per_vector == 8
    path = tmp_path / "index" / "code.inner.centroids.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CorruptArtifactError):
        load_index(tmp_path / "index")


def test_a_low_recall_says_to_look_into_more_lists() -> None:
    poor = build_index(np.arange(700), VECTORS, code=fitted("int8", probes=1), wanted_recall=0.99, sample=30)
    assert poor.measured is not None and poor.measured.recall < 0.99
    assert "more probes (now 1 of 12 lists)" in poor.measured.describe()
    rich = build_index(np.arange(700), VECTORS, code=fitted("int8", probes=LISTS), keep_vectors=True, sample=30)
    assert rich.measured is not None and rich.measured.recall == 1.0
    more = probing(poor, LISTS)
    assert isinstance(more.code, Inverted) and more.code.probes == LISTS and more.lists is poor.lists
    for index, probes in ((poor, 0), (poor, LISTS + 1), (build_index([1], VECTORS[:1], sample=0), 1)):
        with pytest.raises(ConfigError, match="probes"):
            probing(index, probes)


def test_bad_lists_are_refused() -> None:
    for lists, probes in ((0, 1), (4, 5), (4, 0)):
        with pytest.raises(ConfigError, match=r"lists is 0|probes"):
            inverted(VECTORS, lists, probes=probes)
    with pytest.raises(ConfigError, match="5 rows, expected at least 8"):
        inverted(VECTORS[:5], 8)
    with pytest.raises(ConfigError, match="inner code has width 3"):
        inverted(VECTORS, 4, lambda _: Float32(3), probes=1)
    broken = VECTORS.copy()
    broken[7, 0] = np.nan
    with pytest.raises(NonFiniteError, match="rows 7"):
        inverted(broken, 4, probes=1)
    code = fitted()
    with pytest.raises(ConfigError, match="no rows"):
        lists_of(code, {"values": np.zeros((0, WIDTH), np.float32), "list": np.zeros(0, np.int32)})
    with pytest.raises(ConfigError, match="multiple of 32"):
        lists_of(code, code.encode(VECTORS), block=40)
    lists = lists_of(code, code.encode(VECTORS))
    with pytest.raises(ConfigError, match="k is 0"):
        search_inverted(code, lists, QUERIES, 0)
    with pytest.raises(ConfigError, match="width 3"):
        search_inverted(code, lists, QUERIES[:, :3], 1)
    with pytest.raises(ConfigError, match="made for a width or fitted"):
        build_index([1], VECTORS[:1], code=Inverted)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no lists"):
        _ = build_index([1], VECTORS[:1], sample=0).lists


def test_a_margin_leaves_out_lists_that_are_clearly_further_off() -> None:
    """Lists score 1, .9 and 0 for the first query and 1, .2 and 0 for the second: a margin of .5 spares it one."""
    centroids = np.array([[1, 0], [0, 1], [-1, -1]], np.float32)
    code = Inverted(centroids=jnp.asarray(centroids), inner=Float32(2), probes=2, residual=False, margin=0.5)
    rows = np.array([[1, 0], [0.9, 0], [0, 1], [0, 0.9]], np.float32)
    lists = lists_of(code, code.encode(rows), block=32)
    queries = np.array([[1, 0.9], [1, 0.2]], np.float32)
    assert (search_inverted(code, lists, queries, 4).rows >= 0).sum(axis=1).tolist() == [4, 2]
    wide = dataclasses.replace(code, margin=None)
    assert (search_inverted(wide, lists, queries, 4).rows >= 0).all()


def test_the_margin_for_a_recall_is_the_narrowest() -> None:
    code = fitted(probes=6)
    stored = code.encode(VECTORS)
    truth = search_exact(VECTORS, QUERIES, 5).rows
    owners = stored["list"][truth]
    scores = QUERIES @ np.asarray(code.centroids).T

    def found(margin: float) -> float:
        seen = (scores >= scores.max(axis=1, keepdims=True) - margin) & (scores >= -np.sort(-scores, axis=1)[:, 5:6])
        return float(np.take_along_axis(seen, owners, axis=1).mean())

    margin = margin_for(code, QUERIES, owners, recall=0.8)
    assert found(margin) >= 0.8 > found(margin - 3e-6)
    hits = search_inverted(dataclasses.replace(code, margin=margin), lists_of(code, stored, block=32), QUERIES, 5)
    assert recall(hits.rows, truth) == pytest.approx(found(margin))


def test_margins_that_cannot_be_are_refused() -> None:
    code = fitted(probes=1)
    owners = np.zeros((len(QUERIES), 1), int)
    with pytest.raises(ConfigError, match="take more probes"):
        margin_for(code, QUERIES, owners, recall=1.0)
    for lists, wanted in ((owners[:3], 0.9), (owners, 0.0)):
        with pytest.raises(ConfigError, match="expected \\[Q, K\\]"):
            margin_for(code, QUERIES, lists, recall=wanted)
    with pytest.raises(ConfigError, match=f"got lists {LISTS} to {LISTS}, expected 0 to"):
        margin_for(code, QUERIES, owners + LISTS)
    index = build_index(np.arange(len(VECTORS)), VECTORS, code=code)
    with pytest.raises(ConfigError, match="margin is -1"):
        probing(index, 1, margin=-1)
    changed = probing(index, 2, margin=0.5).code
    assert isinstance(changed, Inverted) and (changed.probes, changed.margin) == (2, 0.5)


def test_a_mask_has_one_truth_per_row() -> None:
    code = fitted(probes=LISTS)
    lists = lists_of(code, code.encode(VECTORS), block=32)
    mask = np.arange(len(VECTORS)) % 3 == 0
    expected = search_inverted(code, lists, QUERIES, 5, mask=mask)
    doubled = search_inverted(code, lists, QUERIES, 5, mask=2 * mask.astype(int))
    np.testing.assert_array_equal(doubled.rows, expected.rows)
    for odd in (mask[:-1], mask[:, None], True):
        with pytest.raises(ConfigError, match="one bool per row"):
            search_inverted(code, lists, QUERIES, 5, mask=odd)  # type: ignore[arg-type]
