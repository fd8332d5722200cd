"""MUVERA's candidates with exact MaxSim after them."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.interaction import divisions, pool_tokens
from erel_jax.retrieval import search_tokens, token_corpus
from erel_jax.retrieval.codes import eden

WIDTH = 8


def drawn(rows: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    tokens = draw.standard_normal((rows, length, WIDTH)).astype(np.float32)
    mask = np.arange(length) < draw.integers(1, length + 1, rows)[:, None]
    return tokens / np.linalg.norm(tokens, axis=2, keepdims=True), mask


def by_loops(queries, asked, documents, there) -> np.ndarray:
    return np.array(
        [
            [(q[a] @ d[m].T).max(1).sum() for d, m in zip(documents, there, strict=True)]
            for q, a in zip(queries, asked, strict=True)
        ]
    )


def test_all_candidates_make_it_exact_and_few_nearly() -> None:
    (documents, there), (queries, asked) = drawn(70, 6, 0), drawn(5, 4, 1)
    documents[60:] = documents[:10]
    there[60:] = there[:10]
    truth = by_loops(queries, asked, documents, there)
    order = np.argsort(-truth, axis=1, kind="stable")
    documents[~there] = np.nan
    corpus = token_corpus(documents, there, parts=divisions(WIDTH, planes=2), block=16)
    found = search_tokens(corpus, queries, asked, 8, candidates=1000)
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, order, 1)[:, :8], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(truth, found.rows.astype(int), 1), found.scores, atol=1e-5)
    few = search_tokens(corpus, queries, asked, 1, candidates=20)
    np.testing.assert_array_equal(few.rows[:, 0] % 60, found.rows[:, 0] % 60)
    allowed = np.arange(70) < 3
    some = search_tokens(corpus, queries, asked, 5, candidates=10, mask=allowed)
    assert (some.rows[:, 3:] == -1).all() and (np.sort(some.rows[:, :3], axis=1) == [0, 1, 2]).all()


def test_fewer_tokens_and_coded_encodings_take_fewer_bytes() -> None:
    (documents, there), (queries, asked) = drawn(40, 9, 0), drawn(3, 4, 1)
    parts = divisions(WIDTH, repetitions=5, planes=2)
    whole = token_corpus(documents, np.ones_like(there), parts=parts)
    small_tokens, small_mask = (np.asarray(side) for side in pool_tokens(documents, np.ones_like(there), 3))
    small = token_corpus(small_tokens, small_mask, parts=parts, code=eden(parts.width, 4))
    assert whole.describe() == (
        "40 documents with 9.0 vectors of width 8 (288 bytes), encodings of width 160 (640 bytes)"
    )
    assert small.describe() == "40 documents with 3.0 vectors of width 8 (96 bytes), encodings of width 160 (84 bytes)"
    assert search_tokens(small, queries, asked, 50, candidates=50).rows.shape == (3, 50)


def test_what_does_not_fit_is_refused() -> None:
    (documents, there), (queries, asked) = drawn(4, 3, 0), drawn(2, 3, 1)
    corpus = token_corpus(documents, there)
    bad = documents.copy()
    bad[2, 0] = np.inf
    nothing = there.copy()
    nothing[1] = False
    cases = [
        (lambda: token_corpus(bad, there), NonFiniteError, "tokens of documents from row 0"),
        (lambda: token_corpus(documents, nothing), ConfigError, "the first is row 1"),
        (lambda: token_corpus(documents, there[:, :2]), ConfigError, r"mask \(4, 2\)"),
        (lambda: token_corpus(documents, there, code=eden(7)), ConfigError, "width 7"),
        (lambda: search_tokens(corpus, queries[..., :4], asked, 1), ConfigError, "expected"),
        (lambda: search_tokens(corpus, queries, asked, 0), ConfigError, "k is 0"),
        (lambda: search_tokens(corpus, queries, asked, 5, candidates=4), ConfigError, "4 candidates for k=5"),
        (lambda: search_tokens(corpus, queries, asked & False, 1), ConfigError, "a token in each query"),
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()
