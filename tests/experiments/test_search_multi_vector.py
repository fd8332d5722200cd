"""The multi-vector script at a tiny size."""

import pytest

from experiments.search_multi_vector import main


@pytest.mark.slow
def test_fewer_vectors_take_fewer_bytes_and_more_candidates_keep_more(capsys) -> None:
    rows = main("tiny", factors=(1, 3))
    assert rows["pooled_1"]["recall@10"] > 0.95 and rows["pooled_1"]["bytes_per_document"] == 4 * 48 * 16
    assert rows["pooled_3"]["bytes_per_document"] == 4 * 16 * 16
    found = [rows[f"pooled_3_muvera_{candidates}"]["recall@10"] for candidates in (20, 50, 100)]
    assert found[0] <= found[2] == rows["pooled_3"]["recall@10"]
    assert capsys.readouterr().out.count('"name"') == len(rows) == 6
