"""Indexes: ids, adding, deleting, measured recall, and folders."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from erel_jax.errors import ConfigError, CorruptArtifactError, DataError, NonFiniteError
from erel_jax.retrieval import (
    add,
    build_index,
    compacted,
    delete,
    load_index,
    probing,
    rescored,
    save_index,
    search_exact,
    search_index,
    write_index,
)
from erel_jax.retrieval.codes import (
    Binary,
    Float32,
    Int8PerVector,
    eden,
    int8_per_dimension,
    inverted,
    product,
    residual,
)

WIDTH = 16


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


BIG = np.array([2**62 + 3, 2**62 + 1, 5, 2**33], np.int64)
"""Ids that 32 bits, or a float, would confuse."""


def test_numbers_of_63_bits_come_back() -> None:
    index = build_index(BIG, drawn(4), sample=0)
    found = search_index(index, drawn(4), 1)
    assert found.ids.dtype == np.int64 and found.ids[:, 0].tolist() == BIG.tolist()


def test_texts_come_back_and_places_without_a_hit_are_empty() -> None:
    index = build_index(["b", "a", "été"], drawn(3), sample=0)
    found = search_index(index, drawn(3)[:1], 5)
    assert found.ids[0, 0] == "b" and set(found.ids[0, :3]) == {"a", "b", "été"} and set(found.ids[0, 3:]) == {""}
    numbers = search_index(build_index([7], drawn(1), sample=0), drawn(1), 2)
    assert numbers.ids.tolist() == [[7, -1]]


@pytest.mark.parametrize("keep", [False, True])
def test_adding_and_deleting_equal_building(keep) -> None:
    vectors, queries = drawn(30), drawn(4, seed=1)
    code = eden(WIDTH, 4)
    whole = build_index(np.arange(30), vectors, code=code, keep_vectors=keep, sample=0)
    grown = build_index(np.arange(20), vectors[:20], code=code, keep_vectors=keep, sample=0)
    grown = add(grown, np.arange(20, 30), vectors[20:])
    for one, other in ((whole, grown), (delete(whole, [3, 29]), delete(delete(grown, [29]), [3]))):
        assert len(one) == len(other)
        for left, right in zip(
            dataclasses.astuple(search_index(one, queries, 7)), dataclasses.astuple(search_index(other, queries, 7)),
            strict=True,
        ):  # fmt: skip
            np.testing.assert_allclose(left, right, atol=1e-6)
    gone = delete(whole, [3])
    assert len(gone) == 29 and len(whole) == 30 and not (search_index(gone, vectors[3:4], 29).ids == 3).any()
    assert (
        search_index(compacted(gone), vectors[3:4], 29).ids.tolist()
        == search_index(gone, vectors[3:4], 29).ids.tolist()
    )
    again = add(gone, [3], vectors[3:4])
    assert search_index(again, vectors[3:4], 1).ids.tolist() == [[3]]


def test_a_filter_names_ids() -> None:
    index = build_index([10, 20, 30], drawn(3), sample=0)
    assert search_index(index, drawn(3)[:1], 3, among=np.array([30, 20])).ids[0, 2] == -1
    with pytest.raises(DataError, match="id 40 is not in the index"):
        search_index(index, drawn(1), 1, among=np.array([40]))


def test_bad_ids_and_vectors_are_refused() -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        ([1, 1], DataError, "1 occurs 2 times"),
        ([1, -5], ConfigError, "-5 of row 1"),
        (["a", ""], ConfigError, "row 1"),
        ([1.5, 2.0], ConfigError, "whole numbers"),
        ([1], ConfigError, "1 ids and 2 vectors"),
        (np.array([1, 2**63 + 1], np.uint64), ConfigError, "63 bits"),
    ]
    for ids, error, words in cases:
        with pytest.raises(error, match=words):
            build_index(ids, drawn(2), sample=0)
    with pytest.raises(NonFiniteError, match="rows 1"):
        build_index([1, 2], np.array([[1.0, 2.0], [np.nan, 1.0]], np.float32))
    index = build_index([1, 2], drawn(2), sample=0)
    with pytest.raises(DataError, match="occurs 2"):
        add(index, [2], drawn(1))
    with pytest.raises(ConfigError, match="like int64"):
        add(index, ["x"], drawn(1))
    with pytest.raises(DataError, match="not in the index"):
        delete(index, [3])
    with pytest.raises(DataError, match="not in the index"):
        delete(delete(index, [1]), [1])
    with pytest.raises(DataError, match="numbers and texts"):
        delete(index, ["1"])


def test_it_measures_itself_and_says_what_to_change() -> None:
    vectors = drawn(500)
    coarse = build_index(np.arange(500), vectors, code=Binary(WIDTH), wanted_recall=0.9).measured
    fine = build_index(np.arange(500), vectors, code=Binary(WIDTH), keep_vectors=True, wanted_recall=0.5).measured
    exact = build_index(np.arange(500), vectors).measured
    assert coarse is not None and fine is not None and exact is not None
    assert coarse.recall < fine.recall <= exact.recall == 1.0
    assert "more bits" in coarse.describe() and "more bits" not in fine.describe()
    # What is done already is no advice.
    wanting = dataclasses.replace(fine, wanted_recall=1.0)
    assert "keep_vectors" in coarse.describe() and "keep_vectors" not in wanting.describe()
    assert "more bits" in wanting.describe()
    assert (coarse.bytes_per_vector, fine.bytes_per_vector) == (2, 2 + 64) and exact.query_seconds > 0


CODES = [
    Float32(WIDTH),
    Int8PerVector(WIDTH),
    int8_per_dimension(drawn(100)),
    Binary(WIDTH),
    eden(WIDTH, 3, seed=5),
    product(drawn(300), 4, bits=4, iterations=1),
    residual(drawn(300), 4, bits=4, beam=3, iterations=1),
]


@pytest.mark.parametrize("code", CODES, ids=lambda code: type(code).__name__)
@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_gives_the_index_back(tmp_path, code, keep) -> None:
    built = delete(build_index([f"item {i}" for i in range(40)], drawn(40), code=code, keep_vectors=keep), ["item 7"])
    save_index(tmp_path / "index", built)
    loaded = load_index(tmp_path / "index")
    assert len(loaded.ids) == 39 and loaded.measured == built.measured
    queries = drawn(3, seed=2)
    one, other = (search_index(index, queries, 5) for index in (built, loaded))
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    more = add(loaded, ["new"], queries[:1])
    assert search_index(more, queries[:1], 1).ids[0, 0] == "new"


def test_damage_is_found(tmp_path) -> None:
    save_index(tmp_path / "index", build_index([1, 2], drawn(2), code=Int8PerVector(WIDTH)))
    with pytest.raises(ConfigError, match="exists"):
        save_index(tmp_path / "index", build_index([1], drawn(1)))
    path = tmp_path / "index" / "stored.codes.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CorruptArtifactError):
        load_index(tmp_path / "index")


def test_scoring_again_finds_what_exact_search_finds() -> None:
    vectors, queries = drawn(400), drawn(6, seed=3)
    index = build_index(np.arange(400), vectors, code=eden(WIDTH, 8), keep_vectors=True, sample=0)
    found, truth = search_index(index, queries, 10), search_exact(vectors, queries, 10)
    np.testing.assert_array_equal(found.ids, truth.rows)
    np.testing.assert_allclose(found.scores, truth.scores, atol=1e-6)


@pytest.mark.parametrize("ids", [list(range(5)), [f"item {i}" for i in range(5)]], ids=["numbers", "texts"])
def test_what_names_no_ids_is_refused_and_no_ids_are_none(ids) -> None:
    index = build_index(ids, drawn(5), sample=0)
    cases: list[tuple[Any, str]] = [
        (np.arange(5) < 2, r"mask.*index\.ids\[mask\]"),
        (5, "expected \\[N\\]"),
        ([[1, 2]], "int64\\[1, 2\\]"),
        ([[1], [2, 3]], "no list"),
        ([None], "object"),
        ([1.5], "float64"),
        ([2**70], "63 bits"),
        ([2**63, 5], f"id {2**63} does not fit in 63 bits"),
        ([1, "a"], "id 1 of row 0 is among texts"),
        (["b\0"], "without NUL"),
    ]
    for given, words in cases:
        for use in (
            lambda given=given: search_index(index, drawn(1), 3, among=given),
            lambda given=given: delete(index, given),
        ):
            with pytest.raises(ConfigError, match=words):
                use()
    found = search_index(index, drawn(1), 3, among=[])
    assert set(found.ids.ravel().tolist()) <= {-1, ""} and (found.scores == -np.inf).all()
    assert search_index(index, drawn(1), 2, among=[ids[3], ids[3]]).ids[0, 0] == ids[3]
    for same in (delete(index, []), add(index, [], np.zeros((0, WIDTH), np.float32))):
        assert same.ids.tolist() == ids and same.alive.all()
    with pytest.raises(ConfigError, match=r"0 ids .* for 1 vectors"):
        add(index, [], drawn(1))


@pytest.mark.parametrize("count", [2.5, 2.0, "3", None, True], ids=repr)
def test_a_count_is_a_whole_number(count) -> None:
    index, hits = build_index(range(5), drawn(5), sample=0), search_exact(drawn(5), drawn(1), 4)
    for use in (
        lambda: search_index(index, drawn(1), count),
        lambda: search_exact(drawn(5), drawn(1), count),
        lambda: rescored(hits, drawn(5), drawn(1), count),
        lambda: eden(WIDTH, count),
        lambda: inverted(drawn(20), count, probes=1),
        lambda: inverted(drawn(20), 4, probes=count),
        lambda: probing(index, count),
        lambda: build_index(range(5), drawn(5), sample=count),
    ):
        with pytest.raises(ConfigError, match="expected a whole number"):
            use()
    assert search_index(index, drawn(1), np.int32(2)).ids.shape == (1, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["int8", Int8PerVector, None], ids=str)
def test_a_name_is_no_code(tmp_path, code) -> None:
    with pytest.raises(ConfigError, match=r"such as Int8PerVector\(256\)"):
        write_index(tmp_path / "index", range(5), [drawn(5)], code=code)
    if code is not None:
        with pytest.raises(ConfigError, match=r"such as Int8PerVector\(256\)"):
            build_index(range(5), drawn(5), code=code)
    for options, words in (({"metric": None}, "metric is None"), ({"sample": -5}, "sample is -5")):
        with pytest.raises(ConfigError, match=words):
            build_index(range(5), drawn(5), **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got no ids"):
        write_index(tmp_path / "index", [], [], code=Float32(WIDTH))
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_very_long_and_very_short_rows_are_measured_like_others(scale) -> None:
    usual, other = (build_index(range(200), drawn(200) * np.float32(by)).measured for by in (1, scale))
    assert usual is not None and other is not None and other.recall == usual.recall == 1.0
