"""Which modalities an index keeps, on items made so that the answer is known."""

import numpy as np
import pytest

from erel_jax.compression.modality_pruning import needed_modalities, unit_sum
from erel_jax.errors import ConfigError, NonFiniteError

X, Y = np.eye(4)[0], np.eye(4)[1]


def test_unit_sum_by_hand():
    parts = np.stack([[3 * X, X], [Y, Y]])
    both = unit_sum(parts, np.ones((2, 2), bool))
    np.testing.assert_allclose(both, [(X + Y) / np.sqrt(2)] * 2)
    np.testing.assert_allclose(unit_sum(parts, np.array([[True, False], [False, False]])), [X, 0 * X])


def test_leaves_out_what_no_query_misses():
    # Item 0: its second modality is noise. Item 1: it needs both. Item 2: twins, of which one must stay. Item 3: nobody
    # asks for it. Item 4: it has one modality.
    parts = np.stack([[X, X, X, X, X], [Y, Y, X, Y, Y]])
    present = np.array([[True] * 5, [True] * 4 + [False]])
    queries = np.array([X, (X + Y) / np.sqrt(2), X, Y])
    kept = needed_modalities(parts, present, queries, np.array([0, 1, 2, 4]))
    assert kept[:, 0].tolist() == [True, False]
    assert kept[:, 1].tolist() == [True, True]
    assert kept[:, 2].sum() == 1
    assert kept[:, 3].tolist() == [True, True] and kept[:, 4].tolist() == [True, False]
    # Either half of item 1 alone scores .707 in place of 1.
    for epsilon, left in ((0.29, 2), (0.30, 1)):
        kept = needed_modalities(parts, present, queries, np.array([0, 1, 2, 4]), epsilon=epsilon)
        assert kept[:, 1].sum() == left
    assert present.sum() == 9


def test_what_is_refused():
    parts, present = np.ones((2, 3, 4)), np.ones((2, 3), bool)
    with pytest.raises(ConfigError, match="expected \\[M, N, E\\]"):
        needed_modalities(parts, present, np.ones((2, 5)), np.array([0, 1]))
    with pytest.raises(ConfigError, match="from 0 to 2"):
        needed_modalities(parts, present, np.ones((1, 4)), np.array([3]))
    with pytest.raises(NonFiniteError, match="present modality"):
        needed_modalities(parts * np.nan, present, np.ones((1, 4)), np.array([0]))
    hidden = np.where(np.arange(2)[:, None, None] == 1, np.nan, parts)
    kept = needed_modalities(hidden, present & (np.arange(2)[:, None] == 0), np.ones((1, 4)), np.array([0]))
    assert kept.sum() == 3
