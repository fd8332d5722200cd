"""Walking over a matrix of logits in tiles of a few rows, so that the whole matrix never exists.

A tile is small enough for the processor's cache. Tiles are recomputed in the backward pass, except for the first ones:
a bounded number of bytes of logits is kept, which saves recomputation where the matrix is small and costs next to
nothing where it is large.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import filled_like

PyTree = Any

TILE_BYTES = 8 * 2**20
"""Size of a tile of float32 logits where nobody chose its rows."""

KEPT_BYTES = 64 * 2**20
"""Most bytes of logits that are kept for the backward pass where nobody chose."""


class Tiles(NamedTuple):
    """How B rows against C columns are cut.

    Attributes:
        rows: rows of a tile; a shorter one follows where they do not divide B.
        kept: number of leading tiles whose logits are kept for the backward pass.
    """

    rows: int
    kept: int


def cut(count: int, columns: int, rows: int | None, kept_bytes: int) -> Tiles:
    """Chooses the tiles of `count` rows against `columns` columns.

    Args:
        count, columns: shape of the matrix of logits.
        rows: rows of a tile; None takes `TILE_BYTES` worth of them.
        kept_bytes: most bytes of logits to keep.

    Raises:
        ConfigError: `rows` is below 1.
    """
    if rows is not None and rows < 1:
        raise ConfigError(f"got tiles of {rows} rows, expected at least 1.")
    chosen = min(count, rows or max(8, TILE_BYTES // (4 * columns)))
    kept = min(count // chosen, max(0, kept_bytes) // (4 * chosen * columns))
    return Tiles(chosen, kept)


def take(arrays: PyTree, start: jax.Array | int, rows: int) -> PyTree:
    """Rows `start … start + rows - 1` of every leaf."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, rows), arrays)


def put(array: jax.Array, rows: jax.Array, start: jax.Array | int) -> jax.Array:
    """The array with `rows` written at `start`."""
    return jax.lax.dynamic_update_slice_in_dim(array, rows, start, 0)


def over_tiles(
    visit: Callable[[PyTree, Any, int, jax.Array | None], tuple[PyTree, jax.Array | None]],
    carry: PyTree,
    count: int,
    tiles: Tiles,
    logits: jax.Array | None = None,
) -> tuple[PyTree, jax.Array]:
    """Visits all tiles in order.

    Args:
        visit: `visit(carry, start, rows, logits)` returns the new carry and the logits float32[rows, C]; it is given
            the logits where they were kept, else None.
        carry: updated from tile to tile.
        count: number of rows in all.
        tiles: how they are cut.
        logits: float32[kept, rows, C] of an earlier walk, or None.

    Returns:
        (carry, float32[kept, rows, C] logits of the kept tiles). XLA drops the second where it is not used.
    """

    def keep(carry: PyTree, step: tuple[jax.Array, jax.Array | None]) -> tuple[PyTree, jax.Array | None]:
        return visit(carry, step[0] * tiles.rows, tiles.rows, step[1])

    def pass_by(carry: PyTree, step: jax.Array) -> tuple[PyTree, None]:
        return visit(carry, step * tiles.rows, tiles.rows, None)[0], None

    whole = count // tiles.rows
    kept: Any = jnp.zeros((0,), jnp.float32)
    if tiles.kept:
        carry, kept = jax.lax.scan(keep, carry, (jnp.arange(tiles.kept, dtype=jnp.int32), logits))
    if whole > tiles.kept:
        carry, _ = jax.lax.scan(pass_by, carry, jnp.arange(tiles.kept, whole, dtype=jnp.int32))
    if count > whole * tiles.rows:
        carry, _ = visit(carry, whole * tiles.rows, count - whole * tiles.rows, None)
    return carry, kept


class Gradients(NamedTuple):
    """Gradients gathered on a walk: float32[B, E] of the rows, float32[C, E] of the columns."""

    rows: jax.Array
    columns: jax.Array

    @classmethod
    def none(cls, rows: jax.Array, columns: jax.Array) -> "Gradients":
        """Zeros to begin with."""
        return cls(filled_like(rows, rows.shape, 0.0), filled_like(columns, columns.shape, 0.0))

    def add(self, slope: jax.Array, rows: jax.Array, columns: jax.Array, start: jax.Array | int) -> "Gradients":
        """Adds the products of one tile's slopes float32[rows, C], the loss's derivative by its logits."""
        to_rows = jnp.einsum("rc,ce->re", slope, columns, preferred_element_type=jnp.float32)
        to_columns = jnp.einsum("rc,re->ce", slope, rows, preferred_element_type=jnp.float32)
        before = jax.lax.dynamic_slice_in_dim(self.rows, start, rows.shape[0])
        return Gradients(put(self.rows, before + to_rows, start), self.columns + to_columns)
