"""Rotary positions (Su et al., 2021): each pair of query and key channels turns by an angle that grows with position.

Channel i of the first half of a head is paired with channel i of the second half, as the published decoders store
them. `Rotary` says how fast each pair turns; long-context checkpoints slow the slow pairs down further.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, suggest

SCALINGS = ("default", "linear", "llama3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
    """How fast pairs of channels turn.

    Attributes:
        theta: base of the wavelengths: pair i of K/2 turns by `theta^(-2i/K)` per position.
        scaling: "default"; "linear" (all pairs `factor` times slower); or "llama3" (pairs that turn less than
            `low` times within `original_positions` are `factor` times slower, those above `high` are kept, and the
            ones between are interpolated).
        factor: how much slower.
        low: turns within `original_positions` below which a pair is slowed down in full.
        high: turns above which it is kept.
        original_positions: length of the texts before the context was extended.
    """

    theta: float = 10000.0
    scaling: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_positions: int = 8192

    def __post_init__(self):
        if self.scaling not in SCALINGS:
            raise ConfigError(f"rotary scaling {self.scaling!r} is not implemented. {suggest(self.scaling, SCALINGS)}")
        if self.theta <= 0 or self.factor < 1 or not 0 < self.low < self.high:
            raise ConfigError(
                f"got theta {self.theta}, factor {self.factor}, low {self.low} and high {self.high}; expected a "
                "positive theta, a factor of at least 1 and 0 < low < high."
            )


def rotary_frequencies(rotary: Rotary, head_width: int) -> np.ndarray:
    """The angle per position of every pair.

    Args:
        rotary: how fast pairs turn.
        head_width: channels K of a head, even.

    Returns:
        float32[K/2] in radians, computed in float64.

    Raises:
        ConfigError: K is odd.
    """
    if head_width % 2:
        raise ConfigError(f"rotary positions turn pairs of channels; got an odd head width {head_width}.")
    plain = rotary.theta ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    slowed = plain / rotary.factor
    if rotary.scaling == "default":
        return plain.astype(np.float32)
    if rotary.scaling == "linear":
        return slowed.astype(np.float32)
    turns = rotary.original_positions * plain / (2 * math.pi)
    kept = np.clip((turns - rotary.low) / (rotary.high - rotary.low), 0.0, 1.0)
    return (kept * plain + (1.0 - kept) * slowed).astype(np.float32)


def rotary_tables(rotary: Rotary, length: int, head_width: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the angles at positions 0 to `length` - 1: two float32[L, K/2]."""
    positions = jnp.arange(length, dtype=jnp.float32)[:, None]
    angles = positions * jnp.asarray(rotary_frequencies(rotary, head_width))[None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the channels of every head by its position.

    Args:
        x: float[B, L, H, K].
        tables: cosines and sines of `rotary_tables`, float32[L, K/2]; of longer ones the last L rows count, since a
            prefix takes the places before.

    Returns:
        x's shape and dtype, computed in float32.
    """
    cosine, sine = (table[None, -x.shape[1] :, None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)
