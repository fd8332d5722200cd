"""Queries with what each method found for them, as pictures and texts.

Numbers say how often a method is right; a gallery shows what being wrong looks like. Texts come from data sets and
are not trusted: they are stored as they are and escaped by whoever renders them. Pictures are PNG bytes.
"""

import base64
import binascii
import json
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erel_jax.artifacts import write_bytes_atomic
from erel_jax.errors import ConfigError, DataError

GALLERY_SCHEMA_VERSION = "1"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of text after them, across element borders in a terminal or text file."""


@dataclass(frozen=True)
class GalleryResult:
    """One retrieved item.

    Attributes:
        text: title or caption of the item.
        png: picture of the item as PNG, None if it has none.
        score: score the method gave it; higher is better.
        relevant: whether it answers the query.
    """

    text: str
    png: bytes | None
    score: float
    relevant: bool

    def __post_init__(self):
        _check_png(self.png, self.text)
        if not math.isfinite(self.score):
            raise ConfigError(f"got score={self.score!r} for item {self.text[:40]!r}, expected a finite number")


@dataclass(frozen=True)
class GalleryQuery:
    """One query and its results, best first.

    Attributes:
        query_text: the query, or a user's history as one item per line.
        query_png: picture of the query as PNG, None if it is text alone.
        results: top results, best first.
    """

    query_text: str
    query_png: bytes | None
    results: Sequence[GalleryResult]

    def __post_init__(self):
        _check_png(self.query_png, self.query_text)
        object.__setattr__(self, "results", tuple(self.results))


Galleries = Mapping[str, Sequence[GalleryQuery]]
"""Queries by method name."""


def write_galleries(path: str | os.PathLike[str], galleries: Galleries) -> Path:
    """Write `gallery.json`, pictures as base64.

    Args:
        path: file to write; its folder must exist.
        galleries: queries by method name.

    Returns:
        The path.
    """
    methods = {name: [_query_to_json(query) for query in queries] for name, queries in galleries.items()}
    document = {"schema_version": GALLERY_SCHEMA_VERSION, "methods": methods}
    return write_bytes_atomic(path, (json.dumps(document, allow_nan=False, ensure_ascii=True) + "\n").encode())


def read_galleries(path: str | os.PathLike[str]) -> dict[str, list[GalleryQuery]]:
    """Read `gallery.json`.

    Args:
        path: a file written by `write_galleries`.

    Returns:
        Queries by method name.

    Raises:
        DataError: the file cannot be read, is not such a file, or holds something that is not a PNG picture.
    """
    try:
        document = json.loads(Path(path).read_bytes())
        if document.get("schema_version") != GALLERY_SCHEMA_VERSION:
            raise DataError(
                f"{path}: got gallery schema version {document.get('schema_version')!r}, expected "
                f"{GALLERY_SCHEMA_VERSION!r}; read it with the erel_jax version that wrote it"
            )
        return {
            str(name): [_query_from_json(query) for query in queries] for name, queries in document["methods"].items()
        }
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not a gallery ({error}); run `erel bench` again to write it") from error


def data_uri(png: bytes) -> str:
    """Return a picture as a `data:` address for an `img` element."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def printable(text: str, limit: int = 200) -> str:
    """Return text that any page can carry: no control characters, lone surrogates or direction overrides, not too long.

    Args:
        text: text from a data set.
        limit: longest result in characters; longer texts end in an ellipsis.

    Returns:
        The text. It is not escaped: the renderer must escape it for its format.
    """
    text = " ".join(text[: 4 * limit].split())
    cleaned = "".join(_safe_character(character) for character in text)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1].rstrip() + "…"


def _safe_character(character: str) -> str:
    if character in BIDI_CONTROLS:
        return ""
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character


def _check_png(png: bytes | None, text: str) -> None:
    if png is not None and not (isinstance(png, bytes) and png.startswith(PNG_SIGNATURE)):
        raise ConfigError(f"got a picture that is not PNG for {text[:40]!r}, expected PNG bytes or None")


def _query_to_json(query: GalleryQuery) -> dict[str, Any]:
    return {
        "query_text": query.query_text,
        "query_png": _encoded(query.query_png),
        "results": [
            {
                "text": result.text,
                "png": _encoded(result.png),
                "score": float(result.score),
                "relevant": bool(result.relevant),
            }
            for result in query.results
        ],
    }


def _query_from_json(query: Mapping[str, Any]) -> GalleryQuery:
    results = [
        GalleryResult(str(r["text"]), _decoded(r["png"]), float(r["score"]), bool(r["relevant"]))
        for r in query["results"]
    ]
    return GalleryQuery(str(query["query_text"]), _decoded(query["query_png"]), results)


def _encoded(png: bytes | None) -> str | None:
    return None if png is None else base64.b64encode(png).decode("ascii")


def _decoded(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a picture is not base64: {error}") from error
