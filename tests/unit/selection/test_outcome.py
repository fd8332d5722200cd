"""Outcomes in sequence, on disk, and replayed on the right and on the wrong data."""

import numpy as np
import pytest

from erel_jax.errors import ConfigError, CorruptArtifactError, DataError
from erel_jax.selection import (
    CaptionRules,
    caption_fingerprint,
    decide,
    filter_by_score,
    filter_captions,
    in_sequence,
    load_selection,
    replay_selection,
    save_selection,
)

CAPTIONS = ["a red shirt on a chair", "", "a green shirt on a chair", "a blue hat on a chair", "two words"]


@pytest.fixture
def both():
    first = filter_captions(CAPTIONS, CaptionRules())
    second = filter_by_score(np.array([0.9, 0.1, 0.5], np.float32), threshold=0.5)
    return in_sequence(first, second)


def test_a_sequence_speaks_of_the_rows_of_the_first(both):
    assert both.kept.tolist() == [0, 3]
    assert [both.reason_of(row) for row in range(5)] == [
        None,
        "captions/empty",
        "score/low_score",
        None,
        "captions/too_few_words",
    ]
    assert [step["name"] for step in both.settings["steps"]] == ["captions", "score"]
    third = in_sequence(both, filter_by_score(np.array([1.0, 2.0]), top_share=0.5))
    assert third.kept.tolist() == [3]
    assert third.name == "captions + score + score"
    with pytest.raises(ConfigError, match="saw 3 rows, but captions \\+ score kept 2"):
        in_sequence(both, filter_by_score(np.arange(3.0), top_share=0.5))


def test_a_stored_selection_replays_on_its_data_alone(both, tmp_path):
    save_selection(tmp_path / "s", both)
    again = replay_selection(tmp_path / "s", caption_fingerprint(CAPTIONS))
    for name in ("kept", "removed", "reasons"):
        np.testing.assert_array_equal(getattr(again, name), getattr(both, name))
        assert getattr(again, name).dtype == getattr(both, name).dtype
    assert (again.name, again.reason_names, again.counts()) == (both.name, both.reason_names, both.counts())
    assert dict(again.settings) == dict(both.settings)
    other = caption_fingerprint([*CAPTIONS, "one more"])
    with pytest.raises(DataError, match=f"{both.fingerprint}.*{other}"):
        replay_selection(tmp_path / "s", other)
    with pytest.raises(ConfigError, match="exists already"):
        save_selection(tmp_path / "s", both)
    save_selection(tmp_path / "s", both, overwrite=True)


def test_a_damaged_selection_is_refused(both, tmp_path):
    save_selection(tmp_path / "s", both)
    file = tmp_path / "s" / "kept.npy"
    data = bytearray(file.read_bytes())
    data[-8] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=r"kept\.npy is damaged"):
        load_selection(tmp_path / "s")


def test_rows_that_are_not_all_rows_are_refused(both, tmp_path):
    object.__setattr__(both, "kept", both.kept[:1])
    save_selection(tmp_path / "s", both)
    object.__setattr__(both, "kept", np.array([0, 4]))
    save_selection(tmp_path / "t", both)
    with pytest.raises(CorruptArtifactError, match="are not all 5 rows"):
        load_selection(tmp_path / "t")


def test_settings_must_be_plain(tmp_path):
    outcome = decide("odd", {"value": object()}, "0", np.array([-1]), ("reason",))
    with pytest.raises(ConfigError, match="no JSON values"):
        save_selection(tmp_path / "s", outcome)
