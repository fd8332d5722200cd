"""The item cold-start split: by hand, and on the real MovieLens-1M."""

import numpy as np
import pytest

from erel_jax.data.cold_items import hide_items, split_cold_items
from erel_jax.data.image_sources import Pictures
from erel_jax.data.item_sources import read_item_sources
from erel_jax.data.items import align_pictures
from erel_jax.data.sequences import Sequences
from erel_jax.errors import ConfigError, DataError

WORDS = ("a", "b", "c", "d", "e", "f", "x", "y")


def sequences(*rows):
    codes = [[WORDS.index(word) for word in row.split()] for row in rows]
    return Sequences(
        user_ids=tuple(f"u{n}" for n in range(len(rows))),
        codes=np.concatenate(codes).astype(np.int32),
        offsets=np.cumsum([0, *map(len, codes)]),
        vocabulary=WORDS,
        source="by hand",
    )


def test_by_hand():
    data = split_cold_items(
        sequences("a b x c d e f y a", "a b c d x", "a b c d e f"), {"x", "y"}, item_order=WORDS, max_length=3
    )
    assert data.user_ids == ("u0",) and data.dropped_users == 2 and data.item_ids == ("b", "c", "d", "e", "f", "x", "y")
    number = {item: n for n, item in enumerate(data.item_ids, start=1)}
    # What comes after the target y is not used, and of the warm items before it the last five are.
    np.testing.assert_array_equal(data.windows, [[number[item] for item in "bcde"]])
    assert data.valid.targets.tolist() == [number["f"]] and data.test.targets.tolist() == [number["y"]]
    np.testing.assert_array_equal(data.test.histories, [[number[item] for item in "def"]])
    np.testing.assert_array_equal(data.valid.histories, [[number[item] for item in "cde"]])
    assert data.test.candidates is not None and data.test.candidates.tolist() == [number["x"], number["y"]]
    assert not data.train_counts[data.test.candidates].any() and not data.test.seen.any()
    assert data.valid.candidates is None


def test_hiding_is_a_share_and_follows_the_seed():
    items = [str(n) for n in range(3256)]
    hidden = hide_items(items)
    assert len(hidden) == 325 and list(hidden) == sorted(hidden, key=int) and hidden == hide_items(items)
    assert set(hidden) != set(hide_items(items, seed=1))


def test_impossible_splits_are_refused():
    with pytest.raises(ConfigError, match="share=1"):
        hide_items(["a"], share=1)
    with pytest.raises(DataError, match="none of 1 hidden items occurs"):
        split_cold_items(sequences("a b c"), {"z"})
    with pytest.raises(DataError, match="no user has a hidden item after 5 others"):
        split_cold_items(sequences("a b c x"), {"x"})


def test_movielens_users_and_items_are_those_of_the_protocol(shared_data):
    """A tenth of the 3,256 items with a poster are 325; which ones moves the number of users (5,830 to 5,939)."""
    found = read_item_sources(shared_data)
    names = found.texts["text"].ids
    assert found.images is not None
    with Pictures(found.images) as pictures:
        present = align_pictures(pictures.names(), names).present[1:]
    used = set(found.sequences.vocabulary)
    items = [name for name, there in zip(names, present, strict=True) if there and name in used]
    assert len(items) == 3256
    data = split_cold_items(found.sequences, hide_items(items), item_order=names)
    assert data.test.candidates is not None and len(data.test.candidates) == 325 and data.user_count == 5865
