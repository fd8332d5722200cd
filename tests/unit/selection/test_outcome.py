"""Outcomes in sequence, on disk, and replayed on the right and on the wrong data."""

import hashlib
import json

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


def _edited(folder, both, *, metadata=None, kept=None, digest=True):
    """A stored selection with hashes that match, changed by hand."""
    save_selection(folder, both)
    file = folder / "manifest.json"
    document = json.loads(file.read_text())
    document["metadata"].update(metadata or {})
    if not digest:
        del document["metadata"]["digest"]
    if kept is not None:
        np.save(folder / "kept.npy", kept)
        data = (folder / "kept.npy").read_bytes()
        document["files"]["kept.npy"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"rows": "x"}, "'x' for rows"),
        ({"rows": None}, "None for rows"),
        ({"rows": 6}, "are not all 6 rows"),
        ({"settings": None}, "None for settings"),
        ({"reason_names": 5}, "5 for reason_names"),
        ({"reason_names": [5]}, "expected texts"),
        ({"reason_names": ["x"] * 8}, "counts other reasons"),
        ({"reason_names": list("abcdefgh")}, "counts other reasons"),
    ],
)
def test_a_changed_manifest_is_refused(both, tmp_path, metadata, message):
    _edited(tmp_path / "s", both, metadata=metadata, digest=False)
    with pytest.raises(CorruptArtifactError, match=message):
        load_selection(tmp_path / "s")


def test_a_changed_setting_is_refused_where_a_digest_was_stored(both, tmp_path):
    _edited(tmp_path / "s", both, metadata={"fingerprint": "0"})
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json was changed"):
        load_selection(tmp_path / "s")
    _edited(tmp_path / "t", both, digest=False)
    assert load_selection(tmp_path / "t").kept.tolist() == both.kept.tolist()


def test_one_filter_twice_is_stored(both, tmp_path):
    twice = in_sequence(both, filter_by_score(np.array([1.0, 2.0]), top_share=0.5))
    save_selection(tmp_path / "s", twice)
    assert load_selection(tmp_path / "s").reason_names == twice.reason_names


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (np.array([[0, 3]]), "expected whole numbers"),
        (np.array(0), "expected whole numbers"),
        (np.array([0.0, 3.0]), "expected whole numbers"),
        (np.array([3, 0]), "do not ascend"),
        (np.array([None]), "cannot be read"),
    ],
)
def test_rows_of_another_form_are_refused(both, tmp_path, kept, message):
    _edited(tmp_path / "s", both, kept=kept)
    with pytest.raises(CorruptArtifactError, match=rf"kept\.npy .*{message}"):
        load_selection(tmp_path / "s")


def test_settings_must_be_plain(tmp_path):
    outcome = decide("odd", {"value": object()}, "0", np.array([-1]), ("reason",))
    with pytest.raises(ConfigError, match="no JSON values"):
        save_selection(tmp_path / "s", outcome)
