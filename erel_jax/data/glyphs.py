"""The embedded data set `glyphs`: pictures of Unicode characters and their names.

A retrieval benchmark needs pictures with texts, and one that runs on any machine without a download must bring its
own. Here the pictures are drawn from the fonts in matplotlib's wheel (`glyph_render`) and the texts are the official
names of the characters, such as "leftwards arrow with hook". The data set comes in two halves with no script and no
font in common: a *base* half (Latin, Greek, Cyrillic, digits) on which small encoders are pretrained, and an
*adaptation* half (arrows, mathematics, symbols, other scripts, in other fonts) to which methods adapt them. Splits go
by character, so all pictures of a name are on one side, and every word of a held-out name occurs in training: the
test asks for new compositions of known words.

`builders.glyphs` stores these examples as array_record; `retrieval.load_retrieval("glyphs")` is the usual entrance.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from erel_jax.data.glyph_render import GlyphPen, font_path, named_characters

BASE_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
)
ADAPTATION_FONTS = (
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
)
# Raised when the drawing code changes, so that older copies are not taken for the new data.
RECIPE = 1
# First words of the names in the base half.
BASE_SCRIPTS = frozenset(
    {"latin", "greek", "cyrillic", "digit", "modifier", "superscript", "subscript", "roman", "vulgar"}
)
# Percent of the characters of a half that are held out, before names with an unknown word go back to training.
HELD_OUT = {"pretrain": {"pretrain_test": 12}, "train": {"validation": 10, "test": 18}}
SPLITS = ("pretrain", "pretrain_test", "train", "validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Glyph:
    """One character in all the fonts that draw it differently.

    Attributes:
        character: The character, a string of length one.
        name: Its Unicode name in lower case.
        fonts: F font names.
        pictures: uint8[F, 32, 32], black ink (0) on white paper (255).
    """

    character: str
    name: str
    fonts: tuple[str, ...]
    pictures: np.ndarray


def draw_glyphs() -> tuple[dict[str, list[Glyph]], dict[str, int]]:
    """Draw the whole data set (about two seconds on one core).

    Returns:
        Split name (`SPLITS`) to its characters by rising code point, and the number of pictures left out by reason:
        `blank` (nothing drawn, or the box for a missing character) and `duplicate` (pixel for pixel equal to an
        earlier picture, be it of another character or another font; two right names for one picture would be noise).
    """
    seen: set[bytes] = set()
    dropped = Counter({"blank": 0, "duplicate": 0})
    splits: dict[str, list[Glyph]] = {}
    for train, fonts in (("pretrain", BASE_FONTS), ("train", ADAPTATION_FONTS)):
        glyphs = _draw_half(fonts, train == "pretrain", seen, dropped)
        assigned = assign_splits([glyph.name for glyph in glyphs], train, HELD_OUT[train])
        for split in (train, *HELD_OUT[train]):
            splits[split] = [glyph for glyph, target in zip(glyphs, assigned, strict=True) if target == split]
    return splits, dict(dropped)


def assign_splits(names: list[str], train: str, held_out: dict[str, int]) -> list[str]:
    """Hold out names all of whose words remain in training.

    Args:
        names: Distinct names.
        train: Name of the training split.
        held_out: Held-out split to percent of the names, drawn by a hash of the name (the same on every machine).

    Returns:
        One split name per name. A held-out name with a word that training lacks goes back to training.
    """
    assigned = [_draw_split(name, train, held_out) for name in names]
    known = {word for name, split in zip(names, assigned, strict=True) if split == train for word in words(name)}
    for position, name in enumerate(names):
        if not known.issuperset(words(name)):
            assigned[position] = train
            known.update(words(name))
    return assigned


def words(name: str) -> list[str]:
    """Split a character name into words and single digits.

    Args:
        name: Lower-case name.

    Returns:
        The words in order; "braille pattern dots-12" gives braille, pattern, dots, 1, 2.
    """
    return re.findall(r"[a-z]+|[0-9]", name)


def glyph_recipe() -> str:
    """Digest of everything that decides the pixels, to name cached copies.

    Returns:
        SHA-256 hex digest of the font files, the releases of Pillow and FreeType, and the choices of this module.
        Pixels may differ in single gray values between releases of FreeType, so copies are not shared between them.
    """
    import PIL
    from PIL import features

    choices = (RECIPE, PIL.__version__, features.version("freetype2"), HELD_OUT, sorted(BASE_SCRIPTS))
    digest = hashlib.sha256(repr(choices).encode())
    for font in (*BASE_FONTS, *ADAPTATION_FONTS):
        digest.update(font_path(font).read_bytes())
    return digest.hexdigest()


def _draw_half(fonts: Iterable[str], base: bool, seen: set[bytes], dropped: Counter[str]) -> list[Glyph]:
    names: dict[str, str] = {}
    drawn: dict[str, list[tuple[str, np.ndarray]]] = {}
    for font in fonts:
        pen = GlyphPen(font)
        for character, name in named_characters(font).items():
            if (words(name)[0] in BASE_SCRIPTS) is not base:
                continue
            picture = pen.draw(character)
            key = picture.tobytes()
            if not pen.is_drawn(picture):
                dropped["blank"] += 1
            elif key in seen:
                dropped["duplicate"] += 1
            else:
                seen.add(key)
                names[character] = name
                drawn.setdefault(character, []).append((font, 255 - picture))
    return [
        Glyph(
            character=character,
            name=names[character],
            fonts=tuple(font for font, _ in drawn[character]),
            pictures=np.stack([picture for _, picture in drawn[character]]),
        )
        for character in sorted(names)
    ]


def _draw_split(name: str, train: str, held_out: dict[str, int]) -> str:
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 100
    for split, percent in held_out.items():
        if place < percent:
            return split
        place -= percent
    return train
