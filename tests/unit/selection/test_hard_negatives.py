"""Hard negatives against a full sort."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.selection import mine_hard_negatives

Q, N, E = 5, 37, 6


@pytest.fixture
def pool():
    draw = np.random.default_rng(0)
    items = draw.normal(size=(N, E)).astype(np.float32)
    positives = np.stack([np.arange(Q), np.array([30, -1, 31, -1, -1])], axis=1)
    queries = items[:Q] + draw.normal(size=(Q, E)).astype(np.float32)
    modality = np.arange(N) % 2
    return {"queries": queries, "pool": items, "positives": positives, "wanted": modality[:Q], "modality": modality}


@pytest.mark.parametrize("rows", [8, 64])
def test_equals_a_full_sort(pool, rows):
    found = mine_hard_negatives(**pool, count=4, ratio=0.9, rows=rows, query_rows=2)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (pool["queries"], pool["pool"])]
    cosines = unit[0] @ unit[1].T
    some = 0
    for query in range(Q):
        right = [row for row in pool["positives"][query] if row >= 0]
        best = cosines[query, right].max()
        order = [row for row in np.argsort(-cosines[query]) if row not in right]
        fitting = [row for row in order if pool["modality"][row] == pool["wanted"][query]]
        bound = best - 0.1 * abs(best)
        same = [row for row in fitting if cosines[query, row] <= bound][:4]
        wrong = [row for row in order if row not in fitting and cosines[query, row] > best][:4]
        assert found.same_modality[query].tolist() == same + [-1] * (4 - len(same))
        assert found.wrong_modality[query].tolist() == wrong + [-1] * (4 - len(wrong))
        assert found.near_positive[query] == sum(cosines[query, row] > bound for row in fitting)
        some += len(wrong)
    assert some > 0, "the example must hold candidates of the wrong modality"


def test_bad_input(pool):
    with pytest.raises(ConfigError, match="have width 5, expected 6"):
        mine_hard_negatives(**pool | {"pool": pool["pool"][:, :5]})
    with pytest.raises(DataError, match="pool has 36 rows and modality 37"):
        mine_hard_negatives(**pool | {"pool": pool["pool"][:36]})
    with pytest.raises(DataError, match=r"expected 0\.\.36"):
        mine_hard_negatives(**pool | {"positives": pool["positives"] + 10})
    with pytest.raises(DataError, match=r"2 queries have no positive, first rows \[1, 3\]"):
        mine_hard_negatives(**pool | {"positives": np.array([[0], [-1], [2], [-1], [4]])})
    with pytest.raises(DataError, match="5 queries, positives"):
        mine_hard_negatives(**pool | {"wanted": np.zeros(4, int)})
    with pytest.raises(ConfigError, match="count=0"):
        mine_hard_negatives(**pool, count=0)
    with pytest.raises(ConfigError, match=r"positives are float64\[5, 2\]"):
        mine_hard_negatives(**pool | {"positives": np.full((5, 2), np.nan)})
    with pytest.raises(DataError, match=r"1 modalities are negative or too large, first rows \[2\]"):
        mine_hard_negatives(**pool | {"modality": np.where(np.arange(N) == 2, -1, pool["modality"])})
    bad = pool["pool"].copy()
    bad[11] = np.nan
    with pytest.raises(NonFiniteError, match=r"pool: .* first rows \[11\]"):
        mine_hard_negatives(**pool | {"pool": bad}, rows=8)
