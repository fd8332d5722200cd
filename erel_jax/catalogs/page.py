"""Hits as one HTML page that opens offline: thumbnails, texts and scores, all inside the page and all escaped."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from erel_jax.data.catalog_tables import Row
from erel_jax.data.image_sources import Pictures
from erel_jax.data.images import decode_image, encode_png
from erel_jax.errors import DataError

THUMBNAIL = 160
TEXT_SHOWN = 160


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A query or a hit on the page.

    Attributes:
        id: its id.
        text: its text, "" for none.
        picture: address of its thumbnail, "" for none.
        score: with the query, as text; "" for a query.
    """

    id: str
    text: str
    picture: str
    score: str

    @classmethod
    def of(cls, row: Row, pictures: Pictures | None, score: float | None) -> "Shown":
        """What can be shown of a row; a picture that cannot be read is left out."""
        return cls(
            id=printable(row.id),
            text=printable(row.text or "") if row.text != row.id else "",
            picture=_thumbnail(row, pictures),
            score="" if score is None else f"{score:.3f}",
        )


def render_page(asked: Sequence[tuple[Shown, Sequence[Shown]]], index: str, model: str, notes: Sequence[str]) -> str:
    """The page.

    Args:
        asked: queries with their hits, best first.
        index: name of the index.
        model: name of the encoder.
        notes: sentences about what is not shown.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = resources.files("erel_jax.catalogs").joinpath("page.html.jinja").read_text("utf-8")
    return environment.from_string(template).render(
        asked=asked, index=printable(index), model=printable(model), notes=[printable(note, 400) for note in notes]
    )


def printable(text: str, limit: int = TEXT_SHOWN) -> str:
    """Text that any page can carry: printable characters alone, not too long; the template escapes it."""
    text = " ".join(text[: 4 * limit].split())
    cleaned = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1].rstrip() + "…"


def _thumbnail(row: Row, pictures: Pictures | None) -> str:
    if row.image is None or (isinstance(row.image, str) and pictures is None):
        return ""
    try:
        data = pictures.read(row.image) if isinstance(row.image, str) and pictures is not None else row.image
        assert isinstance(data, bytes)
        png = encode_png(decode_image(data, THUMBNAIL))
    except DataError:
        return ""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
