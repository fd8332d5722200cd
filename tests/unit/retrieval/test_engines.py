"""The other engines hold ids as given, find what exact search finds, and refuse what the index refuses."""

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from erel_jax.errors import ConfigError, CorruptArtifactError, DataError, NonFiniteError
from erel_jax.retrieval import search_exact
from erel_jax.retrieval.engines import build_faiss, load_faiss, open_lancedb, open_qdrant

WIDTH = 8
PACKAGES = {"faiss": "faiss", "lancedb": "lancedb", "qdrant": "qdrant_client"}
# Their own imports and wrappers use what Python and NumPy deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    """Whole numbers: products are exact, so that ties are ties in every engine."""
    return np.random.default_rng(seed).integers(-4, 5, (rows, WIDTH)).astype(np.float32)


@pytest.fixture(params=list(PACKAGES))
def kind(request) -> str:
    if importlib.util.find_spec(PACKAGES[request.param]) is None:
        pytest.skip(f"{PACKAGES[request.param]} is not installed: pip install -e '.[{request.param}]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module(PACKAGES[request.param])
    return request.param


FIELDS = {"brand": "text", "price": "integer"}


def made(kind, folder, ids, vectors, payloads=None, **options):
    """An engine with rows; the stores are opened in a folder."""
    ids = np.asarray(ids)
    if kind == "faiss":
        return build_faiss(ids, vectors, **options)
    texts = ids.dtype.kind == "U"
    if kind == "lancedb":
        engine = open_lancedb(folder, width=WIDTH, texts=texts, fields=FIELDS, **options)
    else:
        engine = open_qdrant(str(folder), "items", width=WIDTH, texts=texts, **options)
    engine.add(ids, vectors, payloads=payloads)
    return engine


def opened(kind, engine, folder, texts, **options):
    """The same engine after it was closed and opened again."""
    if kind == "faiss":
        engine.save(folder, overwrite=True)
        return load_faiss(folder)
    engine.close()
    if kind == "lancedb":
        return open_lancedb(folder, width=WIDTH, texts=texts, **options)
    return open_qdrant(str(folder), "items", width=WIDTH, texts=texts, **options)


def by_score_and_id(vectors, ids, query, k):
    """The order that is asked for, by sorting."""
    hits = sorted(zip((-(vectors @ query)).tolist(), ids, strict=True))
    return [name for _, name in hits[:k]]


NUMBERS = [2**62 + 1, 2**62 + 3, 2**62 + 2, 5, 2**33, *range(100, 125)]
TEXTS = ["été", "it's", 'a "b"', "x", "-1", *(f"sku {number}" for number in range(25))]


@pytest.mark.parametrize("ids", [NUMBERS, TEXTS], ids=["numbers", "texts"])
def test_ids_ties_changes_and_reopening(kind, ids, tmp_path) -> None:
    vectors, queries = drawn(30), drawn(4, 1)
    vectors[20:30] = vectors[:10]  # the same scores under other ids
    engine = made(kind, tmp_path / "store", ids, vectors)
    assert len(engine) == 30
    found = engine.search(queries, 12)
    for row, query in enumerate(queries):
        assert found.ids[row].tolist() == by_score_and_id(vectors, ids, query, 12)
    np.testing.assert_allclose(found.scores, search_exact(vectors, queries, 12).scores, atol=1e-5)
    among = [ids[0], ids[3], ids[20]]
    some = engine.search(queries[:1], 5, among=among)
    assert some.ids[0, :3].tolist() == by_score_and_id(vectors[[0, 3, 20]], among, queries[0], 3)
    engine.delete(ids[:5])
    engine.add(ids[1:3], vectors[1:3])
    engine = opened(kind, engine, tmp_path / "store", isinstance(ids[0], str))
    kept = [1, 2, *range(5, 30)]
    assert len(engine) == 27
    found, missing = engine.search(queries, 40), "" if isinstance(ids[0], str) else -1
    assert found.ids.shape == (4, 40)
    for row, query in enumerate(queries):
        assert found.ids[row, :27].tolist() == by_score_and_id(vectors[kept], [ids[at] for at in kept], query, 27)
        assert (found.ids[row, 27:] == missing).all() and (found.scores[row, 27:] == -np.inf).all()
    engine.close()


def test_cosine_and_the_encoder_are_remembered(kind, tmp_path) -> None:
    vectors, queries = drawn(20) + 0.5, drawn(3, 1) + 0.5
    engine = made(kind, tmp_path / "store", np.arange(20), vectors, metric="cosine", made_by="one")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = search_exact(unit, queries / np.linalg.norm(queries, axis=1, keepdims=True), 5)
    engine = opened(kind, engine, tmp_path / "store", False, metric="cosine", made_by="one")
    found = engine.search(queries, 5, made_by="one")
    np.testing.assert_array_equal(found.ids, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    with pytest.raises(ConfigError, match="'one', and this asks with encoder 'two'"):
        engine.search(queries, 5, made_by="two")
    with pytest.raises(ConfigError, match="'one', and this asks with encoder 'two'"):
        engine.add([99], vectors[:1], made_by="two")
    if kind != "faiss":
        engine.close()
        for options, words in (
            ({"made_by": "two", "metric": "cosine"}, "encoder 'two'"),
            ({"metric": "inner_product"}, "metric='cosine'"),
        ):
            with pytest.raises(ConfigError, match=words):
                opened(kind, engine, tmp_path / "store", False, **options)


def test_bad_input_is_refused_and_changes_nothing(kind, tmp_path) -> None:
    engine = made(kind, tmp_path / "store", [1, 2], drawn(2))
    bad = np.full((1, WIDTH), np.nan, np.float32)
    cases = [
        (lambda: engine.add([2, 3], drawn(2)), DataError, "id 2 is there already"),
        (lambda: engine.add([3, 3], drawn(2)), DataError, "3 occurs 2 times"),
        (lambda: engine.add(["x"], drawn(1)), ConfigError, "holds numbers"),
        (lambda: engine.add([3], drawn(2)), ConfigError, "1 ids, 2 vectors"),
        (lambda: engine.add([3], bad), NonFiniteError, "rows 0"),
        (lambda: engine.add([3], np.ones((1, 3), np.float32)), ConfigError, "width 3"),
        (lambda: engine.delete([7]), DataError, "id 7 is not in the index"),
        (lambda: engine.search(drawn(1), 0), ConfigError, "k is 0"),
        (lambda: engine.search(bad, 1), NonFiniteError, "rows 0"),
        (lambda: engine.search(drawn(1), 1, among=[9]), DataError, "id 9"),
        (lambda: engine.payloads([9]), DataError, "id 9"),
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()
    assert len(engine) == 2
    engine.delete([1, 2])
    assert len(engine) == 0 and engine.search(drawn(2), 3).ids.tolist() == [[-1] * 3] * 2
    engine.close()


PAYLOADS = [{"brand": f"b{number % 3}", "price": number} for number in range(9)]


def test_payloads_filter_and_come_back(kind, tmp_path) -> None:
    if kind == "faiss":
        engine = made(kind, tmp_path, [1], drawn(1))
        with pytest.raises(ConfigError, match="keeps no payloads"):
            engine.add([2], drawn(1), payloads=[{"brand": "x"}])
        with pytest.raises(ConfigError, match="keeps no payloads"):
            engine.search(drawn(1), 1, where={"brand": "x"})
        return
    engine = made(kind, tmp_path / "store", np.arange(9), drawn(9), PAYLOADS)
    assert engine.payloads([8, 0]) == [PAYLOADS[8], PAYLOADS[0]]
    for where, expected in (
        ({"brand": "b1"}, {1, 4, 7}),
        ({"brand": ["b0", "b2"], "price": [2, 3, 4]}, {2, 3}),
        ({"brand": "it's"}, set()),
    ):
        found = engine.search(drawn(1, 1), 9, where=where).ids[0]
        assert set(found[found >= 0].tolist()) == expected
    assert engine.search(drawn(1, 1), 9, where={"brand": "b1"}, among=[1, 2]).ids[0].tolist() == [1] + [-1] * 8
    engine.close()


def test_faiss_types_train_and_filter(tmp_path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install -e '.[faiss]'")
    vectors = np.random.default_rng(0).standard_normal((400, WIDTH)).astype(np.float32)
    truth = search_exact(vectors, vectors[:20], 5).rows
    for factory in ("IVF4,Flat", "SQ8", "HNSW16"):
        engine = build_faiss(np.arange(400), vectors, factory=factory)
        if factory.startswith("IVF"):
            engine.index.nprobe = 4
        found = engine.search(vectors[:20], 5)
        assert np.mean([len(set(a) & set(b)) for a, b in zip(found.ids, truth, strict=True)]) > 4.4, factory
        engine.delete(np.arange(0, 400, 2))
        left = engine.search(vectors[:20], 5).ids
        assert (left % 2 == 1).all(), factory
        engine.save(tmp_path / "index", overwrite=True)
        np.testing.assert_array_equal(load_faiss(tmp_path / "index").search(vectors[:20], 5).ids, left)
    with pytest.raises(ConfigError, match="cannot make 'Flut'"):
        build_faiss([1], vectors[:1], factory="Flut")
    path: Path = tmp_path / "index" / "index.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CorruptArtifactError, match=r"index\.npy"):
        load_faiss(tmp_path / "index")


@pytest.mark.parametrize("factory", ["PQ4x4", "OPQ4,PQ4x4", "PCA4,IVF4,Flat", "IVF4,SQ8,RFlat", "PQ4x4fs"])
def test_faiss_types_that_cannot_leave_rows_out_are_asked_for_more(factory) -> None:
    pytest.importorskip("faiss", reason="an extra: pip install -e '.[faiss]'")
    vectors = np.random.default_rng(1).normal(size=(700, WIDTH)).astype(np.float32)
    engine = build_faiss(range(700), vectors, factory=factory)
    before = engine.search(vectors[:20], 3).ids
    engine.delete(np.unique(before[:, 0]))
    after = engine.search(vectors[:20], 3).ids
    assert not np.isin(after, before[:, 0]).any() and (after >= 0).all()
    chosen = np.unique(after)[:5]
    assert np.isin(engine.search(vectors[:4], 3, among=chosen).ids, [-1, *chosen]).all()


@pytest.mark.parametrize("factory", ["IVF1024,Flat", "IDMap,Flat"])
def test_what_faiss_cannot_build_is_no_traceback(factory) -> None:
    pytest.importorskip("faiss", reason="an extra: pip install -e '.[faiss]'")
    with pytest.raises(ConfigError, match=f"faiss cannot make '{factory}' of 300 vectors"):
        build_faiss(range(300), drawn(300), factory=factory)


def test_stores_say_what_they_hold(tmp_path) -> None:
    pytest.importorskip("lancedb", reason="lancedb is not installed: pip install -e '.[lancedb]'")
    engine = open_lancedb(tmp_path / "store", width=WIDTH, fields=FIELDS)
    with pytest.raises(ConfigError, match="payload field 'colour'"):
        engine.add([1], drawn(1), payloads=[{"colour": "red"}])
    with pytest.raises(ConfigError, match="'price' holds 'cheap'"):
        engine.add([1], drawn(1), payloads=[{"price": "cheap"}])
    with pytest.raises(ConfigError, match="no payload field 'colour'"):
        engine.search(drawn(1), 1, where={"colour": "red"})
    with pytest.raises(ConfigError, match="width=8"):
        open_lancedb(tmp_path / "store", width=9)
    with pytest.raises(ConfigError, match="kinds of"):
        open_lancedb(tmp_path / "other", width=9, fields={"x": "complex"})
    (tmp_path / "store" / "erel.json").write_text("{")
    with pytest.raises(CorruptArtifactError, match=r"erel\.json"):
        open_lancedb(tmp_path / "store", width=WIDTH)


def test_a_second_embedded_qdrant_is_refused(tmp_path) -> None:
    pytest.importorskip("qdrant_client", reason="qdrant_client is not installed: pip install -e '.[qdrant]'")
    engine = open_qdrant(str(tmp_path / "store"), "items", width=WIDTH)
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_qdrant(str(tmp_path / "store"), "items", width=WIDTH)
    engine.close()
    memory = open_qdrant(":memory:", "items", width=WIDTH, texts=True)
    memory.add(["a", "b"], drawn(2), payloads=[{"deep": {"er": 1}}, {"deep": {"er": 2}}])
    assert memory.search(drawn(1), 2, where={"deep.er": 2}).ids.tolist() == [["b", ""]]
    memory.close()


@pytest.mark.parametrize("package", ["faiss", "lancedb", "qdrant_client"])
def test_a_missing_package_names_the_extra(package, tmp_path, monkeypatch) -> None:
    extra = {value: key for key, value in PACKAGES.items()}[package]
    monkeypatch.setitem(sys.modules, package, None)
    openings = {
        "faiss": lambda: build_faiss([1], drawn(1)),
        "lancedb": lambda: open_lancedb(tmp_path, width=WIDTH),
        "qdrant_client": lambda: open_qdrant(":memory:", "x", width=WIDTH),
    }
    with pytest.raises(ConfigError, match=rf"pip install 'erel_jax\[{extra}\]'"):
        openings[package]()
