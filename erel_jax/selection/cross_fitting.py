"""Losses by models that never saw the pair they judge.

A network that trains on a wrong pair for long enough learns it by heart, and then its loss no longer tells.
Cross-fitting takes that away: the pairs fall into folds, and each fold is judged by a model that was trained on the
other folds. Each division into folds is one opinion; the mean over several is steadier than any of them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.selection.ids import row_groups

Judge = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""`judge(rows, judged, seed)` trains on the rows int64[K] and returns the losses float[J] of the pairs `judged`."""


class Fold(NamedTuple):
    """One share of the pairs and what may be trained on to judge it.

    Attributes:
        rows: int64[K], ascending row numbers to train on.
        judged: int64[J], ascending row numbers to judge; none of them is in `rows`, nor another row of their groups.
    """

    rows: np.ndarray
    judged: np.ndarray


def folds_of(count: int, folds: int, *, seed: int = 0, group: np.ndarray | None = None) -> Iterator[Fold]:
    """Divides pairs into folds at random.

    Args:
        count: number of pairs N.
        folds: number of folds of nearly equal size, 2 to N.
        seed: decides the division.
        group: int[N] or None; rows of equal numbers fall into one fold, so that a copy of a judged pair is not trained
            on. Folds are then equal in groups, not in rows. A negative number is a missing one.

    Yields:
        The folds; each pair is judged in exactly one.

    Raises:
        ConfigError: the number of folds does not fit, or the groups are not int[N].
    """
    ids = np.arange(count) if group is None else row_groups("group ids", group)
    if len(ids) != count:
        raise ConfigError(f"got {len(ids)} group ids for {count} pairs, expected one each.")
    groups = int(ids.max(initial=-1)) + 1
    if not 2 <= folds <= groups:
        raise ConfigError(f"got {folds} folds for {groups} pairs or groups, expected 2 to {groups}.")
    place = np.empty(groups, np.int64)
    place[np.random.default_rng(seed).permutation(groups)] = np.arange(groups) * folds // groups
    for fold in range(folds):
        inside = place[ids] == fold
        yield Fold(np.flatnonzero(~inside), np.flatnonzero(inside))


def cross_fitted_losses(
    count: int,
    judge: Judge,
    *,
    folds: int = 2,
    repeats: int = 1,
    kept: np.ndarray | None = None,
    seed: int = 0,
    group: np.ndarray | None = None,
) -> np.ndarray:
    """Mean loss of each pair under models that were trained without it.

    Args:
        count: number of pairs N.
        judge: trains on some rows and returns the losses of others, for example by `pair_losses`; it is called
            folds x repeats times, each time with another seed. Scale the losses alike for all models: the same number
            of steps, or ranks.
        folds: as in `folds_of`. With two, each model trains on half of the pairs; more cost more and judge better.
        repeats: divisions into folds to average over.
        kept: int[K] or None; train on these rows only, those that an earlier round called clean. All pairs are judged.
        seed: of the divisions and, counted up, of the models.
        group: as in `folds_of`.

    Returns:
        float32[N].

    Raises:
        ConfigError: `folds` or `repeats` is out of range.
        DataError: `kept` names rows that do not exist or leaves a model nothing to train on, or the judge returns
            another number of losses.
        NonFiniteError: the judge returns NaN or infinity; names the first rows.

    Reference: the peers of NCR (Huang et al. 2021) judge each other's pairs; dividing the pairs makes that strict.
    """
    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}, expected at least 1.")
    allowed = np.ones(count, bool)
    if kept is not None:
        rows = np.asarray(kept)
        if rows.dtype.kind not in "iu" or rows.ndim != 1 or (rows < 0).any() or (rows >= count).any():
            raise DataError(f"kept is {rows.dtype}{list(rows.shape)}, expected row numbers 0..{count - 1}.")
        allowed[:] = False
        allowed[rows] = True
    total = np.zeros(count, np.float64)
    number = seed
    for repeat in range(repeats):
        for fold in folds_of(count, folds, seed=seed + repeat, group=group):
            rows = fold.rows[allowed[fold.rows]]
            if not len(rows):
                raise DataError(f"none of the {len(fold.rows)} rows outside a fold is kept, so no model can judge it.")
            total[fold.judged] += _judged(judge(rows, fold.judged, number), fold.judged)
            number += 1
    return (total / repeats).astype(np.float32)


def _judged(losses: np.ndarray, judged: np.ndarray) -> np.ndarray:
    found = np.asarray(losses, np.float64)
    if found.shape != judged.shape:
        raise DataError(f"the judge returned losses {list(found.shape)} of {len(judged)} pairs, expected one each.")
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        raise NonFiniteError(
            f"the judge returned {bad.size} losses that are NaN or infinite, first rows {judged[bad[:5]].tolist()}; "
            "expected finite numbers. Did its training diverge?"
        )
    return found
