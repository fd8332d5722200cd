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

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
    """How fast pairs of channels turn.

    Attributes:
        theta: base of the wavelengths: pair i of K/2 turns by `theta^(-2i/K)` per position.
        scaling: "default"; "linear" (all pairs `factor` times slower); "dynamic" (slower for texts beyond the model's
            positions alone, which encoders refuse, so the same as "default"); "llama3" (pairs that turn less than
            `low` times within `original_positions` are `factor` times slower, those above `high` are kept, and the
            ones between are interpolated by their turns); "yarn" (the same, interpolated by their place among the
            pairs); or "longrope" (each pair slower by a factor of its own).
        factor: how much slower.
        low: turns within `original_positions` below which a pair is slowed down in full.
        high: turns above which it is kept.
        original_positions: length of the texts before the context was extended.
        truncate: whether "yarn" rounds the places where interpolation begins and ends to whole pairs.
        attention: factor of cosines and sines, so that scores grow by its square ("yarn", "longrope").
        short: factors of the K/2 pairs of "longrope" in batches of up to `original_positions` tokens.
        long: those in longer batches; padding counts, as in the original.
    """

    theta: float = 10000.0
    scaling: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_positions: int = 8192
    truncate: bool = True
    attention: float = 1.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()

    def __post_init__(self):
        if self.scaling not in SCALINGS:
            raise ConfigError(f"rotary scaling {self.scaling!r} is not implemented. {suggest(self.scaling, SCALINGS)}")
        if self.theta <= 0 or self.factor < 1 or not 0 < self.low < self.high:
            raise ConfigError(
                f"got theta {self.theta}, factor {self.factor}, low {self.low} and high {self.high}; expected a "
                "positive theta, a factor of at least 1 and 0 < low < high."
            )
        if self.attention <= 0 or self.original_positions < 1 or min((*self.short, *self.long), default=1.0) <= 0:
            raise ConfigError(
                f"got attention {self.attention}, original_positions {self.original_positions}, short {self.short} and "
                f"long {self.long}; expected positive numbers."
            )


def rotary_frequencies(rotary: Rotary, head_width: int, length: int = 0) -> np.ndarray:
    """The angle per position of every pair.

    Args:
        rotary: how fast pairs turn.
        head_width: channels K of a head, even.
        length: tokens of the batch, which choose the factors of "longrope".

    Returns:
        float32[K/2] in radians, computed in float64.

    Raises:
        ConfigError: K is odd, or "longrope" has another number of factors than K/2.
    """
    if head_width % 2:
        raise ConfigError(f"rotary positions turn pairs of channels; got an odd head width {head_width}.")
    plain = rotary.theta ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    slowed = plain / rotary.factor
    if rotary.scaling in ("default", "dynamic"):
        return plain.astype(np.float32)
    if rotary.scaling == "linear":
        return slowed.astype(np.float32)
    if rotary.scaling == "longrope":
        factors = rotary.long if length > rotary.original_positions else rotary.short
        if len(factors) != len(plain):
            raise ConfigError(f"longrope has {len(factors)} factors for {len(plain)} pairs of channels of a head.")
        return (plain / np.asarray(factors, np.float64)).astype(np.float32)
    if rotary.scaling == "yarn":
        slowing = _ramp(rotary, head_width)
        return (slowing * slowed + (1.0 - slowing) * plain).astype(np.float32)
    turns = rotary.original_positions * plain / (2 * math.pi)
    kept = np.clip((turns - rotary.low) / (rotary.high - rotary.low), 0.0, 1.0)
    return (kept * plain + (1.0 - kept) * slowed).astype(np.float32)


def _ramp(rotary: Rotary, head_width: int) -> np.ndarray:
    """How far each pair of "yarn" is slowed down, 0 to 1, float64[K/2]: by its place among the channels."""

    def place(turns: float) -> float:
        """The channel whose pair turns that often within the original positions."""
        return head_width * math.log(rotary.original_positions / (turns * 2 * math.pi)) / (2 * math.log(rotary.theta))

    first, last = place(rotary.high), place(rotary.low)
    if rotary.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_width - 1)
    last = last + 0.001 if first == last else last
    return np.clip((np.arange(head_width // 2) - first) / (last - first), 0.0, 1.0)


def rotary_tables(rotary: Rotary, length: int, head_width: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the angles at positions 0 to `length` - 1: two float32[L, K/2]."""
    positions = jnp.arange(length, dtype=jnp.float32)[:, None]
    angles = positions * jnp.asarray(rotary_frequencies(rotary, head_width, length))[None, :]
    return rotary.attention * jnp.cos(angles), rotary.attention * jnp.sin(angles)


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
