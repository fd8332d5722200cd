"""Caption rules, each by an example that breaks this rule alone."""

from typing import Any, cast

import pytest

from erel_jax.errors import ConfigError, DataError
from erel_jax.selection import CaptionRules, caption_fingerprint, filter_captions

GOOD = "a red shirt on a chair"


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (None, "empty"),
        (" \t\n", "empty"),
        ("word " * 20_000, "too_long"),
        ("red shirt", "too_few_words"),
        ("a b c", "too_few_characters"),
        ("buy now buy buy now buy buy", "repetitive"),
        ("12:30 4/5/2020 #### 99.99 abc", "hardly_letters"),
        ("A Red  SHIRT on a chair", "duplicate"),
        ("ａ red shirt on a chair", "duplicate"),
        ("un vélo rouge", None),
        ("椅子の上の赤いシャツ", None),
        ("लाल कमीज़ कुर्सी पर", None),
        ("a\ud800 broken word here", None),
    ],
)
def test_one_rule_at_a_time(caption, reason):
    outcome = filter_captions([GOOD, caption])
    assert outcome.reason_of(0) is None
    assert outcome.reason_of(1) == reason


def test_every_row_is_kept_or_counted():
    captions = [GOOD, "", None, "x" * 100_000, GOOD, "a blue shirt on a chair"]
    outcome = filter_captions(iter(captions))
    assert outcome.kept.tolist() == [0, 5]
    assert outcome.removed.tolist() == [1, 2, 3, 4]
    assert outcome.counts() == {
        "empty": 2,
        "too_long": 1,
        "too_few_words": 0,
        "too_few_characters": 0,
        "repetitive": 0,
        "hardly_letters": 0,
        "duplicate": 1,
    }
    assert outcome.describe() == "captions: kept 2 of 6 rows; removed: 2 empty, 1 too_long, 1 duplicate."
    assert outcome.fingerprint == caption_fingerprint(captions) != caption_fingerprint(captions[::-1])


def test_copies_can_be_kept():
    assert len(filter_captions([GOOD] * 5, CaptionRules(max_copies=None)).kept) == 5
    assert filter_captions([GOOD] * 5, CaptionRules(max_copies=2)).kept.tolist() == [0, 1]


def test_digest_tells_missing_from_empty_and_where_texts_end():
    digests = {caption_fingerprint(texts) for texts in ([None], [""], ["ab", "c"], ["a", "bc"], [])}
    assert len(digests) == 5


def test_bad_input():
    with pytest.raises(DataError, match="row 1 is int"):
        filter_captions([GOOD, 3])  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"would remove all 2 rows \(1 empty, 1 too_few_words\)"):
        filter_captions(["", "short"])
    with pytest.raises(DataError, match="row 1 is int"):
        caption_fingerprint(cast(Any, ["a red shirt", 3]))
    with pytest.raises(DataError, match="no rows"):
        filter_captions([])
    with pytest.raises(ConfigError, match="min_letter_share"):
        CaptionRules(min_letter_share=1.5)
    with pytest.raises(ConfigError, match="max_characters"):
        CaptionRules(max_characters=3)
    for name in ("min_words", "max_characters", "max_copies"):
        with pytest.raises(ConfigError, match=f"{name} is nan"):
            CaptionRules(**{name: float("nan")})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="max_copies"):
        CaptionRules(max_copies=0)
