"""Measures of result lists: by hand, and equal to ir_measures on every measure."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError
from erel_jax.metrics import MEASURES, judged_lists, list_metrics, list_metrics_per_query


def test_by_hand():
    # Ranks: wrong (judged 0), unjudged, right (2), right (1); a right item (3) is not found.
    lists = judged_lists(np.array([[4, 8, 5, 6]]), np.array([[5, 6, 7, 4]]), np.array([[2.0, 1.0, 3.0, 0.0]]))
    names = ("precision@3", "recall@3", "success@2", "rr", "ap", "ap@3", "rprec", "judged@2", "bpref", "rbp")
    found = list_metrics(lists, (*names, "ndcg@4", "ndcg_exp@3"))
    ideal = 3 + 2 / np.log2(3) + 1 / 2
    assert found == pytest.approx(
        {
            "precision@3": 1 / 3,
            "recall@3": 1 / 3,
            "success@2": 0,
            "rr": 1 / 3,
            "ap": (1 / 3 + 2 / 4) / 3,
            "ap@3": 1 / 9,
            "rprec": 1 / 3,
            "judged@2": 1 / 2,
            "bpref": 0,  # the one wrong item stands above both
            "rbp": 0.2 * (0.8**2 + 0.8**3),
            "ndcg@4": (2 / np.log2(4) + 1 / np.log2(5)) / ideal,
            "ndcg_exp@3": (3 / np.log2(4)) / (7 + 3 / np.log2(3) + 1 / 2),
        },
        abs=1e-6,
    )
    assert list_metrics(lists, ("recall",), least=2) == {"recall": 0.5}


def problem(queries=40, items=60, depth=25, judged=12):
    draw = np.random.default_rng(5)
    results = np.argsort(draw.random((queries, items)), axis=1)[:, :depth]
    relevant = np.argsort(draw.random((queries, items)), axis=1)[:, :judged]
    grades = draw.integers(0, 4, relevant.shape).astype(np.float32)
    for row in range(queries):
        results[row, depth - row % 7 :] = -1
        relevant[row, judged - row % 5 :] = -1
    return results, relevant, grades


@pytest.mark.filterwarnings("ignore:.*removed in Python 3.14:DeprecationWarning")  # ir_measures' parser
@pytest.mark.parametrize("least", [1, 2])
def test_equals_ir_measures_on_every_measure(least):
    measures = pytest.importorskip("ir_measures")
    results, relevant, grades = problem()
    rel = f"(rel={least})"
    theirs = {
        "ap": f"AP{rel}",
        "ap@10": f"AP{rel}@10",
        "bpref": f"Bpref{rel}",
        "judged@10": "Judged@10",
        "ndcg": "nDCG",
        "ndcg@5": "nDCG@5",
        "ndcg_exp@10": "nDCG(gains={1:1,2:3,3:7})@10",
        "precision@10": f"P{rel}@10",
        "precision": f"SetP{rel}",
        "recall@20": f"R{rel}@20",
        "recall": f"SetR{rel}",
        "rprec": f"Rprec{rel}",
        "rr": f"RR{rel}",
        "rr@3": f"RR{rel}@3",
        "success@5": f"Success{rel}@5",
    }
    assert {name.partition("@")[0] for name in theirs} == set(MEASURES) - {"rbp"}  # no provider here; by hand above
    ours = list_metrics_per_query(judged_lists(results, relevant, grades), tuple(theirs), least=least)
    run = {f"q{q}": {f"d{d}": float(-i) for i, d in enumerate(row) if d >= 0} for q, row in enumerate(results)}
    qrels = {
        f"q{q}": {f"d{d}": int(g) for d, g in zip(row, grades[q], strict=True) if d >= 0}
        for q, row in enumerate(relevant)
    }
    for name, parsed in theirs.items():
        measure = measures.parse_measure(parsed)
        found = {metric.query_id: metric.value for metric in measures.iter_calc([measure], qrels, run)}
        expected = [found.get(f"q{q}", 0.0) for q in range(len(results))]
        assert sum(expected) > 0
        np.testing.assert_allclose(ours[name], expected, atol=1e-6, err_msg=name)


def test_ids_are_texts_or_64_bits_alike():
    results, relevant, grades = problem()
    names = tuple(name if name in ("bpref", "rbp", "rprec") else f"{name}@10" for name in MEASURES)
    plain = list_metrics(judged_lists(results, relevant, grades), names)
    large = [np.where(ids < 0, -1, ids + 2**40) for ids in (results, relevant)]
    assert list_metrics(judged_lists(large[0], large[1], grades), names) == plain
    texts = [np.where(ids < 0, "", np.char.add("sku-", ids.astype(str))) for ids in (results, relevant)]
    assert list_metrics(judged_lists(texts[0], texts[1], grades), names) == plain


def test_a_query_without_relevant_items_is_zero_everywhere():
    names = tuple(name for name in MEASURES if name != "judged")
    lists = judged_lists(np.array([[1, 2]]), np.array([[2, 3]]), np.zeros((1, 2)))
    assert set(list_metrics(lists, names).values()) == {0.0}
    assert set(list_metrics(judged_lists(np.array([[-1]]), np.array([[2]])), MEASURES).values()) == {0.0}


@pytest.mark.parametrize(
    ("results", "relevant", "grades", "message"),
    [
        ([[1, 2]], [[1], [2]], None, "expected \\[Q, K\\]"),
        ([1, 2], [[1]], None, "expected \\[Q, K\\]"),
        ([[1.0]], [[1]], None, "both whole numbers"),
        ([["a"]], [[1]], None, "both whole numbers"),
        ([[1, 1]], [[1]], None, "results of 1 queries name an id twice"),
        ([[1]], [[2, 2]], None, "judgments of 1 queries"),
        ([[1]], [[2]], [[-1.0]], "from 0 up"),
        ([[1]], [[2]], [[np.nan]], "finite"),
        ([[1]], [[2]], [[1.0, 2.0]], "one per judgment"),
    ],
)
def test_bad_lists_are_refused(results, relevant, grades, message):
    with pytest.raises(DataError, match=message):
        judged_lists(np.array(results), np.array(relevant), None if grades is None else np.array(grades))


@pytest.mark.parametrize("name", ["map", "ndcg@0", "ndcg@", "recall@x", "bpref@3", ""])
def test_unknown_measures_are_refused(name):
    lists = judged_lists(np.array([[1]]), np.array([[1]]))
    with pytest.raises(ConfigError, match="expected one of ap"):
        list_metrics(lists, (name,))
    with pytest.raises(ConfigError, match="least"):
        list_metrics(lists, ("ap",), least=0)
