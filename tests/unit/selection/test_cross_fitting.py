"""Pairs are judged once per division, by models that saw neither them nor their copies."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.selection import cross_fitted_losses, folds_of

N = 23


def test_each_pair_is_judged_in_one_fold():
    folds = list(folds_of(N, 4, seed=3))
    assert sorted(np.concatenate([fold.judged for fold in folds]).tolist()) == list(range(N))
    assert sorted(len(fold.judged) for fold in folds) == [5, 6, 6, 6]
    for fold in folds:
        assert sorted([*fold.rows.tolist(), *fold.judged.tolist()]) == list(range(N))
    again, other = list(folds_of(N, 4, seed=3)), list(folds_of(N, 4, seed=4))
    assert again[0].judged.tolist() == folds[0].judged.tolist() != other[0].judged.tolist()


def test_copies_are_judged_together():
    group = np.array([5, 5, 5, 2, 2, -1, -1, -1, 9, 9])
    for fold in folds_of(10, 3, group=group):
        known = set(group[fold.rows][group[fold.rows] >= 0].tolist())
        assert known.isdisjoint(group[fold.judged].tolist())
    assert len(list(folds_of(10, 6, group=group))) == 6
    with pytest.raises(ConfigError, match="7 folds for 6 pairs or groups"):
        next(folds_of(10, 7, group=group))


def test_the_mean_over_divisions_by_hand():
    seen: list[int] = []

    def judge(rows, judged, seed):
        assert not np.isin(judged, rows).any()
        assert set(rows.tolist()) <= {0, 2, 4, 6}
        seen.append(seed)
        return judged + 10.0 * (seed < 2)

    found = cross_fitted_losses(8, judge, folds=2, repeats=2, kept=np.array([0, 2, 4, 6]), seed=0)
    assert seen == [0, 1, 2, 3]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.arange(8) + 5.0)


def test_memorized_pairs_are_found_only_by_cross_fitting():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(60, 4))
    answers = values @ np.array([1.0, -1.0, 0.5, 2.0])
    answers[:12] = np.roll(answers[:12], 1)

    def judge(rows, judged, seed):
        nearest = np.linalg.norm(values[judged][:, None] - values[rows][None], axis=-1).argmin(axis=1)
        return np.abs(answers[judged] - answers[rows][nearest])

    everyone = np.arange(60)
    assert judge(everyone, everyone, 0).max() == 0
    found = cross_fitted_losses(60, judge, folds=5, repeats=4)
    assert found[:12].mean() > 1.3 * found[12:].mean()


def test_bad_input():
    def judge(rows, judged, seed):
        return np.zeros(len(judged))

    for folds in (1, 9):
        with pytest.raises(ConfigError, match=f"{folds} folds for 8"):
            cross_fitted_losses(8, judge, folds=folds)
    with pytest.raises(ConfigError, match="repeats is 0"):
        cross_fitted_losses(8, judge, repeats=0)
    with pytest.raises(ConfigError, match="7 group ids for 8 pairs"):
        cross_fitted_losses(8, judge, group=np.arange(7))
    with pytest.raises(DataError, match=r"expected row numbers 0\.\.7"):
        cross_fitted_losses(8, judge, kept=np.array([8]))
    with pytest.raises(DataError, match="no model can judge it"):
        cross_fitted_losses(8, judge, kept=np.array([3]))
    with pytest.raises(DataError, match=r"losses \[3\] of 4 pairs"):
        cross_fitted_losses(8, lambda rows, judged, seed: np.zeros(3))
    with pytest.raises(NonFiniteError, match="4 losses that are NaN"):
        cross_fitted_losses(8, lambda rows, judged, seed: np.full(len(judged), np.nan))
