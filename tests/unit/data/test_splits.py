"""Splits by group: nothing divided, nothing moved by other rows, nothing empty."""

import hashlib
from collections import Counter

import pytest

from erel_jax.data.splits import SPLITS, join_groups, split_groups
from erel_jax.errors import DataError


def test_shares_and_rule_on_many_groups() -> None:
    groups = [f"title {number}" for number in range(5000)]
    assigned = split_groups(groups)
    counts = Counter(assigned)
    assert abs(counts["test"] - 500) < 70 and abs(counts["validation"] - 500) < 70
    for group, split in list(zip(groups, assigned, strict=True))[:50]:
        place = int(hashlib.sha256(group.encode()).hexdigest()[:16], 16) % 100
        assert split == ("test" if place < 10 else "validation" if place < 20 else "train")


def test_a_later_row_moves_no_other() -> None:
    groups = [f"title {number}" for number in range(300)]
    assert split_groups([*groups, "new"])[:300] == split_groups(groups)


def test_case_does_not_divide_a_group() -> None:
    groups = [f"Title {number}" for number in range(200)]
    assert split_groups([group.upper() for group in groups]) == split_groups(groups)


@pytest.mark.parametrize("count", [3, 4, 11])
def test_small_data_fills_every_split(count: int) -> None:
    assigned = split_groups([f"g{number}" for number in range(count)])
    assert set(assigned) == set(SPLITS)
    assert Counter(assigned)["train"] >= count - 2


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DataError, match="Got 2 distinct texts"):
        split_groups(["a", "b", "A"])


def test_groups_that_share_a_text_are_joined() -> None:
    rows = [("a", "1"), ("b", "2"), ("c", "2"), ("d", "3"), ("b", "1"), ("e", "4"), ("e", "3")]
    # 1: a-b, 2: b-c, 3: d-e.
    joined = join_groups(rows)
    assert joined == ["a", "a", "a", "d", "a", "d", "d"]
    assert join_groups(rows[::-1]) == joined[::-1]
