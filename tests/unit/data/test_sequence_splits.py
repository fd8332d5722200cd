"""Split rules, against a plain list version and the published statistics."""

import numpy as np
import pytest

from erel_jax.data.items import read_items
from erel_jax.data.sequence_splits import repeats_can_hit, sequence_statistics, split_sequences
from erel_jax.data.sequences import Sequences, read_sequences
from erel_jax.errors import ConfigError, DataError


def _sequences(rows):
    vocabulary, codes, offsets = {}, [], [0]
    for row in rows:
        codes += [vocabulary.setdefault(item, len(vocabulary)) for item in row]
        offsets.append(len(codes))
    return Sequences(
        user_ids=tuple(f"u{index}" for index in range(len(rows))),
        codes=np.asarray(codes, np.int32),
        offsets=np.asarray(offsets),
        vocabulary=tuple(vocabulary),
        source="test",
    )


def _ids(data, row):
    return [data.item_ids[number - 1] for number in row if number]


def test_slices_of_every_user_follow_the_published_rules():
    rng = np.random.default_rng(0)
    rows = [[f"i{item}" for item in rng.integers(0, 40, length)] for length in (1, 4, 5, 6, 9, 12, 13, 14, 30)]
    length = 10
    data = split_sequences(_sequences(rows), max_length=length)
    assert data.dropped_users == 2
    assert data.user_ids == tuple(f"u{index}" for index in range(2, 9))
    for user, row in enumerate(rows[2:]):
        kept = row[-(length + 3) :]
        assert _ids(data, data.windows[user]) == kept[:-2]
        valid, test = kept[-(length + 2) : -1], kept[-(length + 1) :]
        assert _ids(data, data.valid.histories[user]) == valid[:-1]
        assert _ids(data, data.test.histories[user]) == test[:-1]
        assert data.item_ids[data.valid.targets[user] - 1] == valid[-1]
        assert data.item_ids[data.test.targets[user] - 1] == test[-1]
        assert _ids(data, data.valid.seen[user]) == kept[:-2]
        assert _ids(data, data.test.seen[user]) == kept[:-1]
        for padded in (data.windows[user], data.valid.histories[user], data.test.histories[user]):
            assert not np.any(np.diff((padded != 0).astype(int)) < 0), "padding must be on the left"
    assert data.windows.shape == (7, length + 1)
    assert data.test.histories.shape == (7, length)
    assert {array.dtype for array in (data.windows, data.test.targets, data.valid.seen)} == {np.dtype(np.int32)}


def test_items_are_numbered_in_file_order_and_only_if_they_occur_in_what_is_kept():
    # "gone" occurs in the dropped user and before the last 1 + 3 items of the kept one.
    data = split_sequences(
        _sequences([["gone", "d", "c", "b", "a"], ["gone", "b"]]),
        item_order=["x", "a", "b", "gone", "c", "d"],
        max_length=1,
    )
    assert data.item_ids == ("a", "b", "c", "d")
    np.testing.assert_array_equal(data.windows, [[4, 3]])
    assert (data.valid.targets[0], data.test.targets[0]) == (2, 1)


def test_items_without_a_row_are_kept_numbered_last_and_counted():
    data = split_sequences(_sequences([["q", "c", "p", "b", "a"]]), item_order=["a", "b", "c"])
    assert data.item_ids == ("a", "b", "c", "q", "p")
    assert data.unknown_items == 2


def test_files_that_do_not_belong_together_are_refused():
    with pytest.raises(DataError, match=r"3 of 5 items have no row.*'a'"):
        split_sequences(_sequences([["a", "b", "c", "d", "e"]]), item_order=["d", "e", "f"])


def test_a_repeated_target_is_masked_unless_repeats_can_hit():
    data = split_sequences(_sequences(["a b c d a", "e f g h i"]))
    repeated = np.asarray([True, False])
    np.testing.assert_array_equal((data.test.seen == data.test.targets[:, None]).any(axis=1), repeated)
    free = repeats_can_hit(data.test)
    assert not (free.seen == free.targets[:, None]).any()
    np.testing.assert_array_equal(free.seen[1], data.test.seen[1])
    assert sorted(set(data.test.seen[0]) - set(free.seen[0])) == [data.test.targets[0]]


def test_popularity_counts_training_items_only():
    data = split_sequences(_sequences([["a", "a", "b", "v", "t"], ["b", "a", "a", "w", "t"]]))
    numbers = {item: index + 1 for index, item in enumerate(data.item_ids)}
    assert data.train_counts[0] == 0
    assert data.train_counts[numbers["a"]] == 4
    assert data.popularity.dtype == np.float32
    assert data.popularity[0] == 1.0
    assert data.popularity[numbers["a"]] == pytest.approx(4 / 6)
    assert data.popularity[numbers["t"]] == 0.0
    assert data.log_popularity[0] == 0.0
    assert data.log_popularity[numbers["b"]] == pytest.approx(np.log(2 / 6), rel=1e-6)
    assert data.log_popularity[numbers["t"]] == pytest.approx(np.log(1 / 6), rel=1e-6)


def test_wrong_settings_and_short_users_are_refused():
    short = _sequences([["a", "b", "c"]])
    with pytest.raises(DataError, match=r"none of 1 users has 5 items.*longest has 3"):
        split_sequences(short)
    with pytest.raises(ConfigError, match="expected at least 1 and 3"):
        split_sequences(short, max_length=0)
    with pytest.raises(ConfigError, match="expected at least 1 and 3"):
        split_sequences(short, min_length=2)
    with pytest.raises(ConfigError, match="1 repeated ids"):
        split_sequences(_sequences([["a", "b", "c", "d", "e"]]), item_order=["a", "a"])
    with pytest.raises(ConfigError, match="expected one of valid, test"):
        split_sequences(short, min_length=3).evaluation("train")


def test_scientific_reproduces_the_published_statistics(shared_data):
    items = read_items(shared_data / "amazon_scientific_items.tsv")
    sequences = read_sequences(shared_data / "amazon_scientific_users.tsv")
    assert len(sequences.codes) == 85_211
    data = split_sequences(sequences, item_order=items.ids)
    statistics = sequence_statistics(data)
    assert (statistics.users, statistics.items, statistics.interactions) == (12_076, 20_314, 81_711)
    assert (data.dropped_users, data.unknown_items) == (0, 0)
    assert round(statistics.mean_train_length, 2) == 4.77
    percentages = [
        round(100 * share, 1)
        for share in (
            statistics.pad_share,
            statistics.cold_test_share,
            statistics.repeated_test_share,
            statistics.repeated_valid_share,
        )
    ]
    assert percentages == [56.7, 20.2, 5.1, 6.0]


@pytest.mark.parametrize(
    ("text", "hinted"), [("u1\ta,b,c,d,e\nu2\ta,b\n", True), ("u1\ta\nu2\tb\n", True), ("u1\ta b\n", False)]
)
def test_items_that_spaces_do_not_separate_are_pointed_out(tmp_path, text, hinted):
    (tmp_path / "users.tsv").write_text(text)
    with pytest.raises(DataError, match=r"one row per user") as caught:
        split_sequences(read_sequences(tmp_path / "users.tsv"))
    assert ("is read as one item: spaces separate items" in str(caught.value)) == hinted
    assert "min_length" not in str(caught.value), "no command has that option"
