"""The search scripts at a tiny size."""

import numpy as np
import pytest

from experiments.search_codes import main as codes
from experiments.search_codes import recall
from experiments.speed_search import main


@pytest.mark.slow
def test_both_sides_find_the_same(capsys) -> None:
    rows = main("tiny", batches=(8, 1))
    assert set(rows) == {"exact_vs_faiss_flat", "exact_vs_faiss_flat_b1"}
    for row in rows.values():
        assert row["ours"] > 0 and row["ratio"] > 0 and row["recall"] == {"ours": 1.0, "peer": 1.0}
    assert capsys.readouterr().out.count('"name"') == 2


@pytest.mark.parity
@pytest.mark.slow
def test_lists_are_compared_at_a_recall_that_both_reach() -> None:
    pytest.importorskip("faiss", reason="the peer: pip install 'erel-jax[peers]'")
    rows = main("tiny", rows=("ivf_vs_faiss_ivf_sq8",), batches=(8,))
    row = rows["ivf_vs_faiss_ivf_sq8"]
    assert row["ratio"] > 0 and row["recall"]["ours"] >= 0.9 and 1 <= row["probes"]["ours"] <= row["lists"]


def test_recall_is_the_share_of_true_rows() -> None:
    assert recall(np.array([[1, 2], [3, 9]]), np.array([[2, 1], [3, 4]])) == 0.75


@pytest.mark.slow
def test_codes_are_ranked_by_their_bits() -> None:
    rows = codes("tiny")
    found = [rows[name]["recall@10"] for name in ("float32", "int8_per_vector", "eden_4", "eden_2", "eden_1")]
    assert found[0] == 1.0 and found == sorted(found, reverse=True)
    assert rows["eden_4"]["bytes_per_vector"] == 20
    fitted = ("product", "product_rotated", "product_fitted", "residual")
    assert all(rows["binary"]["recall@10"] < rows[name]["recall@10"] for name in fitted)
    assert {rows[name]["bytes_per_vector"] for name in ("binary", "product", "product_fitted", "residual")} == {4}
    assert all(row["recall@10_rescored"] >= row["recall@10"] for row in rows.values())
