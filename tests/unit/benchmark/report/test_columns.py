"""Columns and terms of the report."""

import pytest

from erel_jax.benchmark.report.columns import COLUMNS, best_rows, metric_terms
from erel_jax.benchmark.summary import summarize


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["hr@10", "ndcg@10", "mrr"], ["hr@k", "ndcg@k", "mrr"]),
        (["hr@10_ties_by_id", "mrr_ties_by_id"], ["hr@k", "mrr", "…_ties_by_id"]),
        (["query_to_item/recall@1", "recall_fraction@10"], ["recall@k", "recall_fraction@k", "…_to_…/"]),
        (["accuracy", "<b>"], []),
    ],
)
def test_metric_terms_explain_what_occurs(names, expected):
    assert [name for name, _ in metric_terms(names)] == expected


def test_best_rows(records):
    summary = summarize(records)
    best = {column.key: best_rows(column, summary.learned) for column in COLUMNS}
    assert best["quality"] == {"full_fine_tuning"}
    assert best["trainable_parameters"] == {"head_only"}
    assert best["bytes_per_item"] == {"iisan_cached_text"}
    assert best["encode_items_per_second"] == set()  # all equal


def test_reasons_of_missing_values(records):
    summary = summarize(records)
    random = summary.floors[-1]
    reasons = {column.key: column.reason(random, summary) for column in COLUMNS}
    assert reasons["train_step_seconds"] == "a floor is not trained"
    assert reasons["query_seconds_p50"] == "searches nothing"
    assert reasons["margin"] == "floors are what methods are compared with"
    assert reasons["quality"] == ""
