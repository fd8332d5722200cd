"""Assignment of groups to train, validation and test by a hash of their name.

A hash gives every machine and every order of the rows the same split, and a row that is added later moves no other.
Whatever must stay together (equal texts, variants of one drawing) shares a group name.
"""

import hashlib


def draw_split(group: str, *, validation_percent: int = 10, test_percent: int = 10) -> str:
    """Draw the split of a group.

    Args:
        group: Name of the group; compared without regard to case.
        validation_percent: Expected share of the validation split in percent of the groups.
        test_percent: Expected share of the test split.

    Returns:
        `"train"`, `"validation"` or `"test"`.
    """
    place = int.from_bytes(hashlib.sha256(group.casefold().encode("utf-8", "replace")).digest()[:8]) % 100
    if place < test_percent:
        return "test"
    return "validation" if place < test_percent + validation_percent else "train"


def join_groups(rows: list[tuple[str, str]]) -> list[str]:
    """Join groups that share a text, so that no text can fall on both sides of a split.

    Args:
        rows: Group and text of each item.

    Returns:
        One group name per item: the first name, in file order, of all groups linked by texts.
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
        parent[root(group)] = root(earlier)
    return [root(group) for group, _ in rows]
