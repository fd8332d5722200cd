"""The drawn data set: real shapes, disjoint halves, splits without leaks, the same everywhere."""

import hashlib
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from erel_jax.data import glyphs
from erel_jax.data.glyph_render import GlyphPen, font_path, named_characters
from erel_jax.errors import DataError


@pytest.fixture(scope="module")
def drawn():
    return glyphs.draw_glyphs()


def test_every_split_has_a_useful_size(drawn) -> None:
    splits, dropped = drawn
    assert tuple(splits) == glyphs.SPLITS
    characters = {split: len(members) for split, members in splits.items()}
    pictures = {split: sum(len(glyph.fonts) for glyph in members) for split, members in splits.items()}
    assert characters["pretrain"] > 1500 and characters["train"] > 3500
    assert 150 < characters["pretrain_test"] < 400 and 300 < characters["validation"] < characters["test"] < 1000
    assert pictures["pretrain"] > 8000 and pictures["train"] > 8500
    assert dropped["duplicate"] > 1000


def test_characters_and_texts_are_on_one_side_only(drawn) -> None:
    members = [glyph for split in drawn[0].values() for glyph in split]
    assert len({glyph.character for glyph in members}) == len({glyph.name for glyph in members}) == len(members)
    assert all(glyph.name == unicodedata.name(glyph.character).lower() for glyph in members)


def test_the_halves_share_neither_script_nor_font(drawn) -> None:
    splits = drawn[0]
    base = [glyph for split in ("pretrain", "pretrain_test") for glyph in splits[split]]
    rest = [glyph for split in ("train", "validation", "test") for glyph in splits[split]]
    assert {glyph.name.split()[0] for glyph in base} <= glyphs.BASE_SCRIPTS
    assert not {font for glyph in base for font in glyph.fonts} & {font for glyph in rest for font in glyph.fonts}
    assert not {glyph.name.split()[0] for glyph in rest} & {"latin", "greek", "cyrillic", "digit"}


@pytest.mark.parametrize(
    ("train", "held_out"), [("pretrain", "pretrain_test"), ("train", "validation"), ("train", "test")]
)
def test_held_out_names_are_new_compositions_of_known_words(drawn, train: str, held_out: str) -> None:
    known = {word for glyph in drawn[0][train] for word in re.split(r"[\s-]+|(\d)", glyph.name) if word}
    for glyph in drawn[0][held_out]:
        assert {word for word in re.split(r"[\s-]+|(\d)", glyph.name) if word} <= known


def test_no_two_pictures_are_equal_and_none_is_blank(drawn) -> None:
    pictures = np.concatenate([glyph.pictures for split in drawn[0].values() for glyph in split])
    assert pictures.shape[1:] == (32, 32) and pictures.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert (pictures.min(axis=(1, 2)) < 200).all()  # ink
    assert (pictures == 255).mean() > 0.5  # paper


def test_pictures_are_not_the_box_of_a_missing_character() -> None:
    pen = GlyphPen("DejaVuSans")
    box = pen.draw("\U0010fffe")
    assert box.any() and not pen.is_drawn(box)
    assert not pen.is_drawn(pen.draw(" "))
    assert pen.is_drawn(pen.draw("A"))


def test_a_drawn_character_looks_like_itself() -> None:
    pen = GlyphPen("DejaVuSans")
    block = pen.draw("█") > 0
    assert block.sum() > 250  # a filled rectangle
    line, over = (np.flatnonzero(pen.draw(character).any(axis=1)).mean() for character in ("_", "‾"))
    assert line > 20 > 12 > over  # baseline and height are kept
    wide = np.any(pen.draw("⟹") > 0, axis=0)
    assert wide.sum() >= 24 and wide[:16].any() and wide[16:].any()


def test_nothing_is_cut_off_that_fits(drawn) -> None:
    pen = GlyphPen("DejaVuSans-Bold")
    for character in ("⟹", "W", "⇔", "﷼", "@"):
        picture = pen.draw(character)
        reference = pen._faces[-1].getbbox(character, anchor="ms")
        aspect = (reference[2] - reference[0]) / (reference[3] - reference[1])
        rows, columns = (np.flatnonzero(picture.any(axis=axis)) for axis in (1, 0))
        drawn_aspect = (np.ptp(columns) + 1) / (np.ptp(rows) + 1)
        assert drawn_aspect == pytest.approx(aspect, rel=0.35)


def test_only_shapes_with_names_are_listed() -> None:
    named = named_characters("DejaVuSans")
    assert named["A"] == "latin capital letter a"
    assert len(named) > 5000
    for character in (" ", "\u0301", "\u200d", "\u00ad", "\ue000"):
        assert character not in named


def test_an_absent_font_is_named() -> None:
    with pytest.raises(DataError, match=r"NoSuchFont\.ttf is missing"):
        font_path("NoSuchFont")


def test_splits_follow_the_names_alone() -> None:
    names = [f"{first} {second}" for first in "abcdefghij" for second in "klmnopqrst"] + ["unique word"]
    held_out = {"validation": 10, "test": 20}
    assigned = glyphs.assign_splits(names, "train", held_out)
    assert assigned[-1] == "train"
    assert 8 <= assigned.count("test") <= 32 and 2 <= assigned.count("validation") <= 20
    # Only the first mention of a word may be pulled into training, so removing half the names keeps most in place.
    again = dict(zip(names[::-1], glyphs.assign_splits(names[::-1], "train", held_out), strict=True))
    assert [again[name] for name in names] == assigned


def test_words_and_digits() -> None:
    assert glyphs.words("braille pattern dots-12") == ["braille", "pattern", "dots", "1", "2"]


def test_another_process_draws_the_same(drawn, plain_environment: dict[str, str]) -> None:
    program = (
        "import hashlib\nfrom erel_jax.data.glyphs import draw_glyphs, glyph_recipe\n"
        "digest = hashlib.sha256()\n"
        "for members in draw_glyphs()[0].values():\n"
        "    for glyph in members:\n        digest.update(glyph.name.encode() + glyph.pictures.tobytes())\n"
        "print(digest.hexdigest(), glyph_recipe())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=plain_environment | {"PYTHONHASHSEED": "17"},
        capture_output=True,
        check=True,
        text=True,
    )
    digest = hashlib.sha256()
    for members in drawn[0].values():
        for glyph in members:
            digest.update(glyph.name.encode() + glyph.pictures.tobytes())
    assert done.stdout.split() == [digest.hexdigest(), glyphs.glyph_recipe()]
