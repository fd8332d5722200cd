"""Group ids by equal texts, near-duplicates and both."""

from typing import Any, cast

import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError
from erel_jax.selection import DedupSettings, duplicate_cosines, group_equal_texts, group_near_duplicates, join_groups


def test_equal_texts():
    texts = ["Red shirt", None, "red  SHIRT", "", "blue hat", " ", None, "ｂlue hat"]
    assert group_equal_texts(iter(texts)).tolist() == [0, 1, 0, 2, 3, 4, 5, 3]
    with pytest.raises(DataError, match="no texts"):
        group_equal_texts([])


def test_near_duplicates():
    rows = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    rows[[3, 7, 9]] = rows[0] * np.array([[2.0], [0.5], [3.0]], np.float32)
    rows[5] = rows[4]
    measured = duplicate_cosines(rows, DedupSettings(clusters=2, tile_rows=8))
    assert group_near_duplicates(measured, 0.01).tolist() == [0, 1, 2, 0, 3, 3, 4, 0, 5, 0, 6, 7]
    assert group_near_duplicates(measured, 0.0).max() >= 7
    with pytest.raises(ConfigError, match="epsilon is -1"):
        group_near_duplicates(measured, -1)


def test_joined_groups_are_connected_components():
    first = np.array([0, 0, 1, 2, 3, 3, 4])
    second = np.array([9, 8, 8, 7, 7, 6, 5])
    assert join_groups(first, second).tolist() == [0, 0, 0, 1, 1, 1, 2]
    chain = np.arange(20)
    assert set(join_groups(chain // 2, (chain + 1) // 2).tolist()) == {0}
    with pytest.raises(DataError, match="expected the same"):
        join_groups(first, second[:3])


def test_missing_ids_link_nothing():
    assert join_groups(np.array([-1, -1, 2, 2, -7]), np.array([0, 1, 2, 3, 3])).tolist() == [0, 1, 2, 2, 2]
    assert join_groups(np.array([0, 0, 1]), np.full(3, -1)).tolist() == [0, 0, 1]
    with pytest.raises(ConfigError, match=r"second group ids are float64\[3\], first odd ones at \[0, 1, 2\]"):
        join_groups(np.array([0, 0, 1]), np.array([0, np.nan, 1]))
    with pytest.raises(ConfigError, match=r"first group ids have shape \[3, 1\]"):
        join_groups(np.zeros((3, 1), int), np.zeros(3, int))


def test_texts_may_be_long_but_must_be_texts():
    long = "red shirt " * 10_000
    assert group_equal_texts([long, "blue hat", long.upper(), long + "!"]).tolist() == [0, 1, 0, 2]
    with pytest.raises(DataError, match="text of row 1 is float"):
        group_equal_texts(cast(Any, ["red shirt", float("nan")]))
