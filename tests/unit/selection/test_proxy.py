"""The proxy prefers the selection that trains the better small model."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.selection import choose_by_proxy, filter_by_score, ridge_recall

N = 300


def _outcomes():
    clean = np.arange(N) < 150
    scores = clean.astype(np.float32)
    return {
        "all": filter_by_score(scores, top_share=1.0),
        "clean": filter_by_score(scores, threshold=0.5),
        "noise": filter_by_score(-scores, threshold=-0.5),
    }


def test_the_clean_half_wins():
    draw = np.random.default_rng(0)
    change = draw.normal(size=(8, 6))
    queries = draw.normal(size=(N + 60, 8))
    items = queries @ change + 0.2 * draw.normal(size=(N + 60, 6))
    items[150:N] = items[draw.permutation(np.arange(150, N))]
    train = ridge_recall(queries[:N], items[:N], (queries[N:], items[N:], np.arange(60)), k=3)
    choice = choose_by_proxy(_outcomes(), train, budget=100, seeds=2)
    assert choice.chosen == "clean"
    assert choice.rows == {"all": 100, "clean": 100, "noise": 100}
    means = {name: np.mean(found) for name, found in choice.qualities.items()}
    assert means["clean"] > means["all"] > means["noise"]
    assert choice.margin == pytest.approx(means["clean"] - means["all"])
    assert choice.describe().splitlines()[0].startswith("clean: ")


def test_a_margin_within_the_spread_is_said():
    qualities = iter([0.5, 0.7, 0.61, 0.6, 0.1, 0.1])
    choice = choose_by_proxy(_outcomes(), lambda rows, seed: next(qualities), seeds=2)
    assert choice.chosen == "clean"
    assert choice.rows == {"all": 300, "clean": 150, "noise": 150}
    assert choice.margin == pytest.approx(0.005)
    assert choice.spread == pytest.approx(0.1)
    assert "within the spread" in choice.describe()


def test_bad_input():
    with pytest.raises(ConfigError, match="0 candidates"):
        choose_by_proxy({}, lambda rows, seed: 0.0)
    other = _outcomes() | {"other": filter_by_score(np.arange(3.0), threshold=1)}
    with pytest.raises(DataError, match="different numbers of rows"):
        choose_by_proxy(other, lambda rows, seed: 0.0)
    with pytest.raises(NonFiniteError, match="'all', seed 0"):
        choose_by_proxy(_outcomes(), lambda rows, seed: float("nan"))
    with pytest.raises(DataError, match="3 query and 4 item"):
        ridge_recall(np.ones((3, 2)), np.ones((4, 2)), (np.ones((1, 2)), np.ones((1, 2)), np.zeros(1)))
    rows = np.ones((3, 2))
    with pytest.raises(ConfigError, match="strength=0"):
        ridge_recall(rows, rows, (rows, rows, np.arange(3)), strength=0)
    with pytest.raises(ConfigError, match="held-out group ids are float64"):
        ridge_recall(rows, rows, (rows, rows, np.full(3, np.nan)))
    with pytest.raises(NonFiniteError, match=r"items: 1 rows .* first rows \[2\]"):
        ridge_recall(rows, np.array([[1.0], [1.0], [np.nan]]), (rows, rows[:, :1], np.arange(3)))
    with pytest.raises(ConfigError, match="held-out widths are 3 and 2"):
        ridge_recall(np.ones((3, 2)), np.ones((3, 2)), (np.ones((1, 3)), np.ones((1, 2)), np.zeros(1, int)))
