"""Corpora that stay on disk: read block by block, and built block by block."""

import threading

import jax
import numpy as np
import pytest

from erel_jax.artifacts import read_manifest
from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.retrieval import (
    build_index,
    load_index,
    save_index,
    search_coded,
    search_exact,
    search_index,
    write_index,
)
from erel_jax.retrieval.blocks import blocks_ahead
from erel_jax.retrieval.codes import Binary, Float32, Int8PerVector, eden
from erel_jax.retrieval.index import noisy_rows

WIDTH = 8


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 3, 1000, 5000])
def test_blocks_are_the_rows_in_order_with_one_shape(tmp_path, block) -> None:
    values, small = drawn(2500).astype(np.float64), np.arange(2500, dtype=np.uint8)
    np.save(tmp_path / "values.npy", values)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    for source in (values, mapped, mapped[:]):
        seen = []
        for start, count, part in blocks_ahead({"values": source, "small": small}, block):
            assert part["values"].shape == (block, WIDTH) and part["values"].dtype == np.float32
            assert (
                part["small"].dtype == np.uint8 and not part["values"][count:].any() and not part["small"][count:].any()
            )
            np.testing.assert_array_equal(part["small"][:count], small[start : start + count])
            seen.append(part["values"][:count])
        np.testing.assert_array_equal(np.concatenate(seen), values.astype(np.float32))
    assert list(blocks_ahead({"values": values[:0]}, block)) == []


def test_the_next_block_is_read_while_one_is_used() -> None:
    ready = threading.Event()

    class Watched(np.ndarray):
        def __getitem__(self, key):
            if isinstance(key, slice) and key.start == 4:
                ready.set()
            return super().__getitem__(key)

    blocks = blocks_ahead({"values": drawn(8).view(Watched)}, 4)
    next(blocks)
    assert ready.wait(10), "read before it was asked for"
    blocks.close()


def test_one_program_serves_all_blocks_and_the_last() -> None:
    from erel_jax.retrieval.coded import merged

    code = Float32(WIDTH)
    before = merged._cache_size()  # type: ignore[attr-defined]
    for rows in (30, 35, 41):
        search_coded(code, {"values": drawn(rows)}, drawn(2), 3, block=10)
    assert merged._cache_size() - before <= 1  # type: ignore[attr-defined]


CODES = [Float32(WIDTH), Int8PerVector(WIDTH), eden(WIDTH, 1)]


@pytest.mark.parametrize("code", CODES, ids=lambda code: type(code).__name__)
@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_an_index_written_by_blocks_is_the_one_built_at_once(tmp_path, code, metric) -> None:
    vectors, queries = drawn(50), drawn(3, 1)
    ids = [f"id {number}" for number in range(50)]
    keep = metric == "cosine"
    parts = (vectors[start : start + 16] for start in range(0, 50, 16))
    measured = write_index(tmp_path / "blocks", ids, parts, code=code, metric=metric, made_by="m", keep_vectors=keep)
    save_index(tmp_path / "whole", build_index(ids, vectors, code=code, metric=metric, sample=0, keep_vectors=keep))
    whole = build_index(ids, vectors, code=code, metric=metric, keep_vectors=keep).measured
    assert measured is not None and whole is not None
    # Queries are noisy rows of the first block here and of all rows there.
    assert abs(measured.recall - whole.recall) < 0.25 and measured.bytes_per_vector == whole.bytes_per_vector
    assert load_index(tmp_path / "blocks").measured == measured
    assert "sha256" in read_manifest(tmp_path / "blocks").metadata
    for path in (tmp_path / "whole").glob("*.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "blocks" / path.name), np.load(path))
    mapped, resident = (load_index(tmp_path / "blocks", mapped=choice) for choice in (True, False))
    assert mapped.made_by == "m" and isinstance(next(iter(mapped.stored.values())), np.memmap)
    assert not isinstance(next(iter(resident.stored.values())), np.memmap)
    among = np.array(ids[7:20])
    for chosen in (None, among):
        one, other = (search_index(index, queries, 5, among=chosen) for index in (mapped, resident))
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.scores, other.scores)
    assert set(search_index(mapped, queries, 5, among=among).ids.ravel()) <= set(among)


def test_blocks_that_do_not_fit_the_ids_leave_nothing_and_the_old_index(tmp_path) -> None:
    folder = tmp_path / "index"
    write_index(folder, [1, 2], [drawn(2)], code=Float32(WIDTH))
    for blocks, words in (
        ([drawn(2)], "2 vectors for 3 ids"),
        ([drawn(2), drawn(2)], "more than 3"),
        ([], "0 vectors"),
    ):
        with pytest.raises(DataError, match=words):
            write_index(folder, [1, 2, 3], blocks, code=Float32(WIDTH), overwrite=True)
    bad = drawn(2)
    bad[1] = np.nan
    with pytest.raises(NonFiniteError, match="vectors from row 2 hold NaN or infinity, in rows 1"):
        write_index(folder, [1, 2, 3, 4], [drawn(2), bad], code=Float32(WIDTH), overwrite=True)
    with pytest.raises(ConfigError, match="width 3"):
        write_index(folder, [1], [np.ones((1, 3), np.float32)], code=Float32(WIDTH), overwrite=True)
    with pytest.raises(ConfigError, match="exists"):
        write_index(folder, [1], [drawn(1)], code=Float32(WIDTH))
    assert load_index(folder).ids.tolist() == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".index.lock", "index"]


def test_recall_is_measured_against_all_blocks(tmp_path) -> None:
    vectors = drawn(90)
    blocks = [vectors[:30], vectors[30:33], vectors[33:]]
    for code in (Float32(WIDTH), Binary(WIDTH)):
        measured = write_index(tmp_path / "index", np.arange(90), blocks, code=code, overwrite=True, wanted_recall=0.99)
        assert measured is not None
        truth = search_exact(vectors, noisy_rows(vectors[:30], 100), 10).rows
        found = search_coded(code, code.encode(vectors), noisy_rows(vectors[:30], 100), 10).rows
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
        assert measured.recall == pytest.approx(recall) and ("below the recall" in measured.describe()) == (
            recall < 0.99
        )
    assert measured.recall < 0.99
    assert write_index(tmp_path / "index", np.arange(90), blocks, code=code, overwrite=True, sample=0) is None
    with pytest.raises(ConfigError, match="wanted_recall is 2"):
        write_index(tmp_path / "index", np.arange(90), blocks, code=code, overwrite=True, wanted_recall=2)


def test_scores_do_not_depend_on_the_block_size() -> None:
    rows, queries = drawn(300), drawn(4, 1)
    rows[200:250] = rows[:50]  # ties
    code = eden(WIDTH, 2)
    stored = code.encode(rows)
    whole = search_coded(code, stored, queries, 20, block=300)
    for block in (7, 64):
        found = search_coded(code, stored, queries, 20, block=block)
        np.testing.assert_array_equal(found.rows, whole.rows)
        np.testing.assert_allclose(found.scores, whole.scores, atol=1e-6)
    assert jax.device_count() == 8
