"""Cascades against loops: margins by trying all of them, entities by brute force."""

import re

import numpy as np
import pytest

from erel_jax.errors import ConfigError
from erel_jax.retrieval import Hits, build_index, rescored, search_exact
from erel_jax.retrieval.cascade import (
    EntityCascade,
    calibrated_margin,
    capitalized_spans,
    cascaded,
    first_sentences,
    leads,
)
from erel_jax.retrieval.codes import Int8PerVector


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.9, 1.0])
def test_the_margin_is_the_smallest_that_reaches_the_recall(wanted) -> None:
    draw = np.random.default_rng(0)
    lead = draw.integers(0, 40, 300) / 40
    first, second = draw.random(300) < 0.3 + 0.7 * lead, draw.random(300) < 0.92

    def reached(margin: float) -> float:
        return float(np.where(lead > margin, first, second).mean())

    found = calibrated_margin(lead, first, second, wanted)
    good = [margin for margin in [-1.0, *np.unique(lead)] if reached(margin) >= wanted]
    if good:
        assert found.recall == pytest.approx(reached(found.margin)) and found.recall >= wanted
        assert found.stopped == pytest.approx((lead > min(good)).mean()), "no smaller margin reaches it"
        assert "Below" not in found.describe()
    else:
        assert found.margin == np.inf and found.stopped == 0 and "Below the recall of 1" in found.describe()


def test_short_vectors_first_and_whole_ones_where_unsure() -> None:
    draw = np.random.default_rng(0)
    spectrum = 1 / np.sqrt(1 + np.arange(32))
    vectors = unit(draw.standard_normal((2000, 32)) * spectrum)
    queries = unit(vectors[:400] + 0.25 * draw.standard_normal((400, 32)) * spectrum)
    truth = search_exact(vectors, queries, 1).rows[:, 0]
    first = search_exact(vectors[:, :12].copy(), queries[:, :12].copy(), 20)

    def second(numbers: np.ndarray) -> Hits:
        return rescored(Hits(rows=first.rows[numbers], scores=first.scores[numbers]), vectors, queries[numbers], 5)

    right = (first.rows[:, 0] == truth, second(np.arange(400)).rows[:, 0] == truth)
    assert right[0][:200].mean() < 0.9 < right[1][:200].mean()
    found = calibrated_margin(leads(first)[:200], right[0][:200], right[1][:200], 0.9)
    hits, stopped = cascaded(first, found.margin, second)
    assert (hits.rows[200:, 0] == truth[200:]).mean() > 0.9 and 0.1 < stopped[200:].mean() < 0.9
    np.testing.assert_array_equal(hits.rows[stopped], first.rows[stopped][:, :5])
    np.testing.assert_array_equal(hits.rows[~stopped], second(np.flatnonzero(~stopped)).rows)
    assert cascaded(first, -1.0, lambda numbers: 1 / 0)[1].all(), "the second stage is not asked"  # type: ignore[arg-type,return-value]


WORDS = [f"E{letter}" for letter in "abcdefghijkl"]
MEANING = unit(np.random.default_rng(1).standard_normal((len(WORDS), 24)))


class Encoder:
    """A text is the sum of its known words; counts what it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts) -> np.ndarray:
        self.texts += list(texts)
        known = [[WORDS.index(word) for word in re.findall(r"E[a-l]\b", text)] for text in texts]
        return np.stack([MEANING[words].sum(0) if words else np.full(24, 0.01) for words in known]).astype(np.float32)


def pictures() -> np.ndarray:
    """Each shows two things."""
    draw = np.random.default_rng(2)
    pairs = [(a, b) for a in range(12) for b in range(a)]
    return unit(np.stack([MEANING[a] + MEANING[b] for a, b in pairs]) + 0.05 * draw.standard_normal((len(pairs), 24)))


@pytest.mark.parametrize("keep", [False, True])
def test_entities_find_and_the_summary_ranks(keep) -> None:
    vectors, encoder = pictures(), Encoder()
    ids = np.arange(len(vectors)) + 2**40
    index = build_index(ids, vectors, code=Int8PerVector(24), keep_vectors=keep, metric="cosine", sample=0)
    cascade = EntityCascade(index, encoder, per_entity=8)
    texts = ["Ea met Eb. Then they left. Ec stayed with Ed.", "Ee alone. And Ef. But Ea is last."]
    found = cascade.search(texts, 5)
    for text, names, scores in zip(texts, found.ids, found.scores, strict=True):
        union: set[int] = set()
        for entity in capitalized_spans(text):
            asked = unit(Encoder()([entity]))[0]
            union |= set(np.argsort(-(vectors @ asked), kind="stable")[:8].tolist())
        summary = unit(Encoder()([first_sentences(text)]))[0]
        order = sorted(union, key=lambda row: -float(vectors[row] @ summary))
        assert set(names.tolist()) == {ids[row] for row in order[:5]}
        np.testing.assert_allclose(scores, sorted(vectors[order[:5]] @ summary)[::-1], atol=5e-3)
    given = len(encoder.texts)
    cascade.search(texts[:1], 5)
    assert len(encoder.texts) - given == 1, "the summary alone: entities are kept"


def test_a_text_without_entities_is_searched_by_its_summary_and_few_candidates_leave_places() -> None:
    vectors, encoder = pictures(), Encoder()
    index = build_index([f"p{row}" for row in range(len(vectors))], vectors, keep_vectors=True, sample=0)
    alone = EntityCascade(index, encoder, entities=lambda text: [])
    expected = search_exact(vectors, encoder(["Ea Eb"]), 3).rows[0]
    assert alone.search(["Ea Eb"], 3).ids.tolist() == [[f"p{row}" for row in expected]]
    few = EntityCascade(index, encoder, per_entity=2).search(["Ea"], 4)
    assert (few.ids[0, 2:] == "").all() and (few.scores[0, 2:] == -np.inf).all() and few.ids[0, 1] != ""
    assert alone.prepare(["Ea", "Ea", " Ea "]) == 1


def test_what_does_not_fit_is_refused() -> None:
    one = Hits(rows=np.zeros((2, 1), np.int32), scores=np.zeros((2, 1), np.float32))
    two = Hits(rows=np.array([[0, 1], [3, -1]], np.int32), scores=np.array([[2, 1], [5, -np.inf]], np.float32))
    assert leads(two).tolist() == [1, np.inf]
    index = build_index([1], np.ones((1, 24), np.float32), sample=0)
    cases = [
        (lambda: leads(one), "1 place per query"),
        (lambda: cascaded(two, 1.0, lambda numbers: two), "2 × 2 hits for 1 queries"),
        (lambda: calibrated_margin(np.ones(3), np.ones(3), np.ones(2), 0.5), "three times"),
        (lambda: calibrated_margin(np.ones(3), np.ones(3), np.ones(3), 1.5), "at most 1"),
        (lambda: EntityCascade(index, Encoder(), per_entity=0), "k is 0"),
        (lambda: EntityCascade(index, Encoder()).search([], 1), "no texts"),
        (lambda: EntityCascade(index, Encoder()).search(["x"], 0), "k is 0"),
        (lambda: EntityCascade(index, lambda texts: np.ones((len(texts), 3))).search(["x"], 1), "width 3"),
    ]
    for call, words in cases:
        with pytest.raises(ConfigError, match=words):
            call()
