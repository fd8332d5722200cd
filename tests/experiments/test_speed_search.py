"""The search speed script at a tiny size."""

import numpy as np
import pytest

from experiments.speed_search import main, recall


@pytest.mark.slow
def test_both_sides_find_the_same(capsys) -> None:
    rows = main("tiny", batches=(8, 1))
    assert set(rows) == {"exact_vs_faiss_flat", "exact_vs_faiss_flat_b1"}
    for row in rows.values():
        assert row["ours"] > 0 and row["ratio"] > 0 and row["recall"] == {"ours": 1.0, "peer": 1.0}
    assert capsys.readouterr().out.count('"name"') == 2


def test_recall_is_the_share_of_true_rows() -> None:
    assert recall(np.array([[1, 2], [3, 9]]), np.array([[2, 1], [3, 4]])) == 0.75
