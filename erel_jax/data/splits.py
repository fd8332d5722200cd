"""Assignment of groups to train, validation and test by a hash of their name.

A hash gives every machine and every order of the rows the same split, and a row that is added later moves no other.
Whatever must stay together (equal texts, variants of one drawing) shares a group name.
"""

import hashlib
from collections.abc import Sequence

from erel_jax.errors import DataError

SPLITS = ("train", "validation", "test")
VALIDATION_PERCENT = 10
TEST_PERCENT = 10


def split_groups(groups: Sequence[str]) -> list[str]:
    """Assign items to splits so that a group is never divided, about 80/10/10 by groups.

    Args:
        groups: Group name of each item; names that differ in case alone are one group.

    Returns:
        `"train"`, `"validation"` or `"test"` for each item: by the hash of the group alone, except where that would
        leave a split of a small data set empty; then the groups are ranked by their hash and cut by count.

    Raises:
        DataError: There are fewer than three groups.
    """
    places = {group: _hash(group) for group in dict.fromkeys(group.casefold() for group in groups)}
    if len(places) < len(SPLITS):
        raise DataError(f"Got {len(places)} distinct texts, expected at least {len(SPLITS)} to split. Bring more data.")
    assigned = {group: _split_at(place % 100) for group, place in places.items()}
    if set(assigned.values()) != set(SPLITS):
        held_out = max(1, round(len(places) * TEST_PERCENT / 100))
        ranked = sorted(places, key=lambda group: (places[group], group))
        assigned = dict.fromkeys(ranked, "train")
        assigned |= dict.fromkeys(ranked[:held_out], "test")
        assigned |= dict.fromkeys(ranked[held_out : 2 * held_out], "validation")
    return [assigned[group.casefold()] for group in groups]


def split_of(group: str) -> str:
    """The split of one group by its hash alone, about 80/10/10.

    Args:
        group: Name of the group; upper and lower case are the same.

    Returns:
        `"train"`, `"validation"` or `"test"`.
    """
    return _split_at(_hash(group.casefold()) % 100)


def join_groups(rows: list[tuple[str, str]]) -> list[str]:
    """Join groups that share a text, so that no text can fall on both sides of a split.

    Args:
        rows: Group and text of each item.

    Returns:
        One group name per item: the smallest name of all groups linked by texts, whatever the order of the rows.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first_with: dict[str, str] = {}
    for group, text in rows:
        parent.setdefault(group, group)
        earlier = first_with.setdefault(text, group)
        first, second = sorted((root(group), root(earlier)))
        parent[second] = first
    return [root(group) for group, _ in rows]


def _hash(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode("utf-8", "replace")).digest()[:8])


def _split_at(place: int) -> str:
    if place < TEST_PERCENT:
        return "test"
    return "validation" if place < TEST_PERCENT + VALIDATION_PERCENT else "train"
