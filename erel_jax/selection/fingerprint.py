"""Digests of data that is read once and in pieces.

A selection is a list of row numbers, which mean something for one data set alone. The fingerprint says which one: it
depends on values, their order and their number, and not on how the data was cut into blocks.
"""

import hashlib
from collections.abc import Iterable
from typing import Self

import numpy as np

from erel_jax.errors import DataError
from erel_jax.selection.blocks import Embeddings, blocks_of


class Fingerprint:
    """Running SHA-256 digest of texts or of rows of numbers.

    Args:
        kind: what the data is, for example "captions"; equal bytes of another kind have another digest.
    """

    def __init__(self, kind: str) -> None:
        self._hash = hashlib.sha256(f"{kind}\n".encode())
        self._count = 0

    def text(self, value: str | None) -> Self:
        """Adds one text; None differs from the empty text."""
        data = b"" if value is None else value.encode("utf-8", "surrogatepass")
        self._hash.update(f"{-1 if value is None else len(data)}:".encode())
        self._hash.update(data)
        self._count += 1
        return self

    def rows(self, block: np.ndarray) -> Self:
        """Adds the rows of an array of numbers, as their little-endian bytes."""
        if self._count == 0:
            self._hash.update(f"{block.dtype}{list(block.shape[1:])}".encode())
        data = np.ascontiguousarray(block)
        self._hash.update(data.astype(data.dtype.newbyteorder("<"), copy=False).data)
        self._count += len(block)
        return self

    def picture(self, pixels: np.ndarray | None) -> Self:
        """Adds one array with its shape; None stands for a picture that could not be read."""
        if pixels is None:
            return self.text(None)
        self._hash.update(f"{pixels.dtype}{list(pixels.shape)}:".encode())
        self._hash.update(np.ascontiguousarray(pixels).data)
        self._count += 1
        return self

    def digest(self) -> str:
        """Hex digest of everything added so far."""
        final = self._hash.copy()
        final.update(f"\n{self._count}".encode())
        return final.hexdigest()


def caption_fingerprint(captions: Iterable[str | None]) -> str:
    """Digest of captions, as `filter_captions` records it; DataError names a caption that is no text and not None."""
    digest = Fingerprint("captions")
    for row, caption in enumerate(captions):
        if caption is not None and not isinstance(caption, str):
            raise DataError(f"caption of row {row} is {type(caption).__name__}, expected text or None.")
        digest.text(caption)
    return digest.digest()


def image_fingerprint(images: Iterable[np.ndarray | None]) -> str:
    """Digest of decoded pictures, as `filter_images` records it."""
    digest = Fingerprint("images")
    for pixels in images:
        digest.picture(pixels)
    return digest.digest()


def embedding_fingerprint(source: Embeddings) -> str:
    """Digest of float32 embeddings [N, E], array or stream, as `semdedup` records it."""
    digest = Fingerprint("embeddings")
    for _, block in blocks_of(source):
        digest.rows(block)
    return digest.digest()


def score_fingerprint(scores: np.ndarray) -> str:
    """Digest of one number per row [N], as float32; the filters by scores and losses record it."""
    return Fingerprint("scores").rows(np.asarray(scores, np.float32)).digest()
