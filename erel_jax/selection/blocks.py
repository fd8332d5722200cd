"""Embeddings that may be larger than memory, read in blocks of rows and checked on the way.

A source of embeddings is an array (also one that is mapped from disk with `np.load(..., mmap_mode="r")`) or a function
that starts a fresh stream of blocks each time it is called. Every filter reads its sources through `blocks_of`, so bad
rows are found everywhere and named by their row numbers.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, DataError, NonFiniteError

Embeddings = np.ndarray | jax.Array | Callable[[], Iterable[Any]]
"""float[N, E], or a function whose result yields float[b, E] blocks in row order, the same ones at each call."""

BLOCK_ROWS = 16_384
_SHOWN = 5


def blocks_of(
    source: Embeddings, name: str = "embeddings", *, rows: int = BLOCK_ROWS, width: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Reads a source in even blocks.

    Args:
        source: array or function that starts a stream; the stream's own blocks may have any sizes.
        name: what to call the source in messages.
        rows: rows of a block; the last one may be shorter.
        width: expected width, or None for that of the first block.

    Yields:
        (number of the first row, float32[b, E] block).

    Raises:
        ConfigError: the source is neither, has another width or dtype, or `rows` is below 1.
        DataError: there are no rows.
        NonFiniteError: rows hold NaN or infinity; names the first ones.
    """
    if rows < 1:
        raise ConfigError(f"got blocks of {rows} rows, expected at least 1.")
    start = 0
    for raw in _even(_checked(_pieces(source, name, rows), name, width), rows):
        block = np.asarray(raw, np.float32)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            raise NonFiniteError(
                f"{name}: {bad.size} rows of the block from row {start} hold NaN or infinity, first rows "
                f"{(bad[:_SHOWN] + start).tolist()}; expected finite embeddings. Encode these rows again or leave "
                "them out."
            )
        yield start, block
        start += len(block)
    if not start:
        raise DataError(f"{name}: no rows, expected at least one. Check what the embeddings were read from.")


def random_rows(source: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32[b, E] rows of an array, also of one that is mapped from disk."""
    return np.asarray(source[rows], np.float32)


def _pieces(source: Embeddings, name: str, rows: int) -> Iterator[np.ndarray]:
    if callable(source):
        for piece in source():
            array = np.asarray(piece)
            if array.ndim != 2:
                raise ConfigError(f"{name}: got a block of shape {list(array.shape)}, expected [b, E].")
            if len(array):
                yield array
        return
    if not isinstance(source, np.ndarray | jax.Array) or source.ndim != 2:
        shape = f"shape {list(source.shape)}" if isinstance(source, np.ndarray | jax.Array) else type(source).__name__
        raise ConfigError(
            f"{name}: got {shape}, expected an array [N, E] or a function that starts a stream of blocks. A stream "
            "that can be read once only is not enough: wrap what makes it in a function."
        )
    for start in range(0, len(source), rows):
        yield np.asarray(source[start : start + rows])


def _checked(pieces: Iterator[np.ndarray], name: str, width: int | None) -> Iterator[np.ndarray]:
    """Passes pieces on that are floating point and of one width."""
    start = 0
    for piece in pieces:
        if not piece.shape[1] or not jnp.issubdtype(piece.dtype, jnp.floating):
            raise ConfigError(f"{name}: got {piece.dtype}{list(piece.shape)}, expected floating point [N, E].")
        width = piece.shape[1] if width is None else width
        if piece.shape[1] != width:
            raise ConfigError(
                f"{name}: rows {start} to {start + len(piece) - 1} have width {piece.shape[1]}, expected {width}. "
                "Were they made by another model?"
            )
        yield piece
        start += len(piece)


def _even(pieces: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """Cuts and joins pieces to blocks of `rows` rows."""
    waiting: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        while count + len(piece) >= rows:
            taken = rows - count
            block = piece[:taken]
            yield np.concatenate([*waiting, block]) if waiting else block
            waiting, count, piece = [], 0, piece[taken:]
        if len(piece):
            waiting.append(piece)
            count += len(piece)
    if waiting:
        yield np.concatenate(waiting)
