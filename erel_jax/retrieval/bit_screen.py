"""Three bits per dimension say which rows are worth a look: products of bit planes, by counting bits.

A row r, as its code gives it back, is turned at random and every dimension goes to one of eight even levels; a query
goes to sixteen. The levels are kept as bit planes, so that a product of a row and a query is a few counts of common
bits, with a fraction of the bytes and of the time of the codes themselves:

    v = 2c - 7,  c in 0 … 7,  nearest to 2 R r / (.586 σ);    w = u - 15/2,  u in 0 … 15,  nearest to R y / s
    ⟨r, y⟩ ≈ S s ⟨v, w⟩,   S = ‖r‖² / ⟨R r, v⟩,   ⟨c, u⟩ = Σ_ij 2^(i+j) popcount(c_i & u_j)

σ is the root of the mean square of R r, s a fifteenth of twice the largest |R y|. S makes the estimate right on average
over rotations, as in EDEN (`codes.eden`), whose levels are not even and which stores nothing else. Rows are told apart
by it, not scored: the best of them are scored again by their codes.

Reference: RaBitQ (Gao and Long 2024; several bits: Gao et al. 2024), of which this is a form with even levels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.codes.rotation import random_rotation

BITS, QUERY_BITS = 3, 4
STEP = 0.586
"""Distance of eight even levels that represent a standard normal draw with the least squared error (Max 1960)."""
FOLD = 4
"""Rows that lie together and are looked at together."""
LEAST_WIDTH = 64
"""Below it the estimates are too rough, and rows so short that there is little to save."""
TOP, QUERY_TOP = 2**BITS - 1, 2**QUERY_BITS - 1
WORD = 32
CHUNK = 64


@struct.dataclass
class BitRows:
    """Rows in C blocks of R, in the order of `folded`.

    Attributes:
        planes: uint32[C, 3, ⌈D / 32⌉, R], bits of c.
        scale: float32[C, R], S.
        shift: float32[C, R], what a row takes off a product of levels.
    """

    planes: jax.Array
    scale: jax.Array
    shift: jax.Array


@struct.dataclass
class BitScreen:
    """Rows for a screen, and float32[D, D], the rotation that their queries are turned by."""

    rows: BitRows
    rotation: jax.Array


@struct.dataclass
class AskedBits:
    """Queries for a screen: planes uint32[Q, 4, ⌈D / 32⌉], scale s float32[Q], shift float32[Q]."""

    planes: jax.Array
    scale: jax.Array
    shift: jax.Array


def bit_screen(code: Code, parts: Mapping[str, jax.Array]) -> BitScreen:
    """The screen of rows that a code stores: 3 bits per dimension and 8 bytes.

    Args:
        code: how they are stored.
        parts: what it stored, [C, R, ...]; R is a multiple of 4.
    """
    blocks = len(next(iter(parts.values())))
    width = code.decode({name: values[0, :1] for name, values in parts.items()}).shape[1]
    rotation = jnp.asarray(random_rotation(width))
    made = [
        _screened(code, rotation, {name: values[start : start + CHUNK] for name, values in parts.items()})
        for start in range(0, blocks, CHUNK)
    ]
    return BitScreen(rows=jax.tree.map(lambda *sides: jnp.concatenate(sides), *made), rotation=rotation)


@jax.jit
def _screened(code: Code, rotation: jax.Array, parts: dict[str, jax.Array]) -> BitRows:
    size = next(iter(parts.values())).shape[:2]
    rows = code.decode({name: values.reshape(-1, *values.shape[2:]) for name, values in parts.items()})
    turned, largest = _turned(rows, rotation)
    spread = STEP * jnp.sqrt(jnp.mean(jnp.square(turned), axis=1, keepdims=True))
    levels = jnp.floor(turned / jnp.where(spread > 0, spread, 1.0)) + 2 ** (BITS - 1)
    levels = jnp.clip(levels, 0, TOP)
    along = jnp.sum((2 * levels - TOP) * turned, axis=1)
    scale = largest * jnp.sum(jnp.square(turned), axis=1) / jnp.where(along > 0, along, 1.0)
    shift = QUERY_TOP * (jnp.sum(levels, axis=1) - TOP * rows.shape[1] / 2)
    planes = _planes(levels.astype(jnp.uint32), BITS).reshape(*size, BITS, -1)
    return BitRows(
        planes=jnp.moveaxis(folded(planes), 1, -1),
        scale=folded(scale.reshape(size)),
        shift=folded(shift.reshape(size)),
    )


def folded(rows: jax.Array) -> jax.Array:
    """[C, R, ...] in the order of the screen: first every fourth row of a block, from 0 on, then those from 1 on, ….

    Rows that lie together are then a fourth of the block apart: the largest of each four is one of whole vectors.
    """
    blocks, size = rows.shape[:2]
    return rows.reshape(blocks, size // FOLD, FOLD, *rows.shape[2:]).swapaxes(1, 2).reshape(rows.shape)


def asked_bits(screen: BitScreen, asked: jax.Array) -> AskedBits:
    """float32[Q, D] projected queries for a screen."""
    turned, largest = _turned(asked, screen.rotation)
    step = 2 * jnp.max(jnp.abs(turned), axis=1) / QUERY_TOP
    levels = jnp.round(turned / jnp.where(step > 0, step, 1.0)[:, None] + QUERY_TOP / 2)
    levels = jnp.clip(levels, 0, QUERY_TOP)
    planes = _planes(levels.astype(jnp.uint32), QUERY_BITS)
    return AskedBits(planes=planes, scale=largest * step, shift=TOP * jnp.sum(levels, axis=1))


def estimates(rows: BitRows, asked: AskedBits) -> jax.Array:
    """float32[T, R] estimated inner products of T blocks' rows, each block with its own query."""
    total = jnp.zeros((), jnp.uint32)
    # Unrolled: every count is one of whole vectors of rows, and nothing is summed across them.
    for bit in range(BITS):
        for query_bit in range(QUERY_BITS):
            counts = [
                jax.lax.population_count(rows.planes[:, bit, word] & asked.planes[:, query_bit, word][:, None])
                for word in range(rows.planes.shape[2])
            ]
            total = total + (sum(counts[1:], counts[0]) << jnp.uint32(bit + query_bit))
    levels = 2 * total.astype(jnp.int32).astype(jnp.float32) - rows.shift - asked.shift[:, None]
    return levels * (rows.scale * asked.scale[:, None])


def _turned(vectors: jax.Array, rotation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Vectors [N, D] over their largest values, turned, and those values [N]; their squares stay within float32."""
    largest = jnp.max(jnp.abs(vectors), axis=1)
    even = vectors / jnp.where(largest > 0, largest, 1.0)[:, None]
    return jnp.matmul(even, rotation.T, precision=jax.lax.Precision.HIGHEST), largest


def _planes(levels: jax.Array, bits: int) -> jax.Array:
    """uint32[N, D] → uint32[N, bits, ⌈D / 32⌉]."""
    words = jnp.pad(levels, ((0, 0), (0, -levels.shape[1] % WORD))).reshape(len(levels), -1, WORD)
    places = jnp.arange(WORD, dtype=jnp.uint32)[None, None]
    return jnp.stack([jnp.sum(((words >> bit) & 1) << places, axis=2, dtype=jnp.uint32) for bit in range(bits)], axis=1)
