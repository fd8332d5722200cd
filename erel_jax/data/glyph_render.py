"""Pictures of Unicode characters, drawn from the open fonts in matplotlib's wheel.

DejaVu and STIX cover thousands of letters and symbols, so named pictures can be drawn on any machine, without a
download. `named_characters` lists what a font can draw, and `GlyphPen` draws it with Pillow's basic layout engine,
which exists in every build of Pillow. Characters sit on a common baseline, so that a comma and an apostrophe differ;
only those that do not fit are drawn smaller or moved.
"""

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from erel_jax.errors import DataError

SIDE = 32
FONT_PIXELS = (22, 18, 14, 11, 8)
BASELINE = 23
# Marks that need a letter to sit on, spaces, and codes without a shape.
SHAPELESS = frozenset({"Mn", "Me", "Mc", "Cf", "Cc", "Zs", "Zl", "Zp"})
# In every font, the picture of this noncharacter is the box that stands for what is missing.
_UNASSIGNED = "\U0010ffff"


def font_path(font: str) -> Path:
    """Return the file of a font that matplotlib ships.

    Args:
        font: File name without its suffix, such as `"DejaVuSans-Bold"`.

    Returns:
        Path of the TrueType file.

    Raises:
        DataError: The installed matplotlib has no such font.
    """
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    if not path.is_file():
        raise DataError(f"Font {path} is missing, expected it in the wheel of matplotlib. Install matplotlib again.")
    return path


def named_characters(font: str) -> dict[str, str]:
    """List the characters that a font draws and Unicode names.

    Args:
        font: Font name as in `font_path`.

    Returns:
        Character to its lower-case Unicode name, by rising code point. Characters that the font maps to no glyph of
        its own, combining marks and spaces are left out.

    Reference:
        Names are stable: the Unicode Consortium never changes one once assigned. The fonts date from 2016, so every
        character in them is known to the Unicode 14 of Python 3.11 and newer tables alike.
    """
    from matplotlib.ft2font import FT2Font

    named = {}
    for code in sorted(FT2Font(str(font_path(font))).get_charmap()):
        character = chr(code)
        name = unicodedata.name(character, "")
        if name and unicodedata.category(character) not in SHAPELESS:
            named[character] = name.lower()
    return named


class GlyphPen:
    """Draws single characters of one font.

    Args:
        font: Font name as in `font_path`.
    """

    def __init__(self, font: str) -> None:
        path = str(font_path(font))
        self._faces = [ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC) for size in FONT_PIXELS]
        self._missing = self.draw(_UNASSIGNED)

    def draw(self, character: str) -> np.ndarray:
        """Draw one character, white on black.

        Args:
            character: A string of one character.

        Returns:
            uint8[32, 32], 0 background, 255 ink.
        """
        face = next((face for face in self._faces if _fits(face, character)), self._faces[-1])
        left, top, right, bottom = face.getbbox(character, anchor="ms")
        # The baseline gives way only where ink would fall outside.
        x = min(max(SIDE // 2, -left), SIDE - right)
        y = min(max(BASELINE, -top), SIDE - bottom)
        canvas = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(canvas).text((x, y), character, fill=255, font=face, anchor="ms")
        return np.asarray(canvas)

    def is_drawn(self, picture: np.ndarray) -> bool:
        """Whether a picture shows something other than blank paper or the box for a missing character.

        Args:
            picture: uint8[32, 32] from `draw`.

        Returns:
            False for a blank picture and for the missing box.
        """
        return bool(picture.any()) and not np.array_equal(picture, self._missing)


def _fits(face: ImageFont.FreeTypeFont, character: str) -> bool:
    left, top, right, bottom = face.getbbox(character, anchor="ms")
    return right - left <= SIDE and bottom - top <= SIDE
