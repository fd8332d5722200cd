"""Augmented copies of pictures that can be made again, bit for bit, from a seed.

Everything from the seed to the pixels is computed in integers: which crop, its place in fractions of a pixel, the
weights of the interpolation, the factors of brightness, contrast and saturation. So a copy is the same in any batch,
under any compilation and on any device, and a data set need not store what can be drawn again.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError

_UNIT = 64  # parts of a pixel
_LARGEST = 65536 // _UNIT  # pixels per side; offsets are drawn with 16 bits
_CHOICES = 16  # areas, and as many aspect ratios
_ONE = 256  # the factor 1 of brightness, contrast and saturation
_RED, _GREEN, _BLUE = 77, 150, 29  # shares of the luma of ITU-R BT.601, of 256


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to a copy; the defaults are light, since a pair's text must stay true.

    Attributes:
        least_area: smallest share of the picture's area that a crop keeps, in (0, 1]; 1 crops nothing.
        aspect: largest factor by which a crop is wider or taller than the picture, at least 1.
        flip: mirror every other copy; not for text, signs and symbols.
        brightness, contrast, saturation: largest change of the factor, in [0, 1): 0.1 is 0.9 to 1.1.
    """

    least_area: float = 0.7
    aspect: float = 4 / 3
    flip: bool = False
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1

    def __post_init__(self):
        if not 0 < self.least_area <= 1 or not (1 <= self.aspect < math.inf):
            raise ConfigError(
                f"got least_area {self.least_area} and aspect {self.aspect}, expected 0 < least_area <= 1 <= aspect."
            )
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to below 1.")

    @classmethod
    def none(cls) -> "Augmentation":
        """Every copy is the picture itself."""
        return cls(least_area=1.0, aspect=1.0, brightness=0.0, contrast=0.0, saturation=0.0)


def copy_seeds(seed: int, rows: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """The seeds of some copies of some pictures.

    Args:
        seed: of the whole data set, 0 to 2³² - 1.
        rows: int[B], row of each picture.
        copies: int[B], number of each copy, from 0.

    Returns:
        uint32[B, 2], a function of the three numbers alone.

    Raises:
        ConfigError: a negative number, or rows and copies that differ in shape.
    """
    rows, copies = np.asarray(rows), np.asarray(copies)
    if rows.shape != copies.shape or rows.ndim != 1 or rows.dtype.kind not in "iu" or copies.dtype.kind not in "iu":
        raise ConfigError(
            f"got rows {rows.dtype}{list(rows.shape)} and copies {copies.dtype}{list(copies.shape)}, expected both "
            "as int[B]."
        )
    if not 0 <= seed < 2**32 or (rows < 0).any() or (copies < 0).any():
        raise ConfigError(f"seed {seed}, rows and copies must not be negative, and the seed must be below 2³².")
    return np.asarray(_seeds(np.uint32(seed), rows.astype(np.uint32), copies.astype(np.uint32)))


@jax.jit
def _seeds(seed: jax.Array, rows: jax.Array, copies: jax.Array) -> jax.Array:
    # The implementation is named, so that a changed default of JAX changes no copy.
    key = jax.random.key(seed, impl="threefry2x32")

    def one(row: jax.Array, copy: jax.Array) -> jax.Array:
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, row), copy))

    return jax.vmap(one)(rows, copies)


def augment(images: jax.typing.ArrayLike, seeds: jax.typing.ArrayLike, augmentation: Augmentation) -> jax.Array:
    """Copies of pictures, each as its seed says.

    Args:
        images: uint8[B, H, W, C], C 1 or 3, sides of at most 1024 pixels.
        seeds: uint32[B, 2] of `copy_seeds`.
        augmentation: what may happen.

    Returns:
        uint8[B, H, W, C]: a crop of random size, aspect ratio and place, scaled back with bilinear weights; mirrored or
        not; then brightness, contrast around the mean luma, and saturation changed, each clipped to 0 … 255. The same
        bits for the same picture, seed and settings, whatever else is in the batch.

    Raises:
        ConfigError: another shape or dtype.
    """
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if len(shape) != 4 or dtype != jnp.uint8 or shape[3] not in (1, 3) or min(shape[1:3]) < 1:
        raise ConfigError(f"images are {dtype}{list(shape)}, expected uint8[B, H, W, C] with C 1 or 3.")
    if max(shape[1:3]) > _LARGEST:
        raise ConfigError(f"images have {shape[1]} x {shape[2]} pixels, expected at most {_LARGEST} per side.")
    if jnp.shape(seeds) != (shape[0], 2) or jnp.result_type(seeds) != jnp.uint32:
        got = f"{jnp.result_type(seeds)}{list(jnp.shape(seeds))}"
        raise ConfigError(f"seeds are {got}, expected uint32[{shape[0]}, 2] of copy_seeds.")
    return _augmented(jnp.asarray(images), jnp.asarray(seeds), augmentation)


@partial(jax.jit, static_argnames=("augmentation",))
def _augmented(images: jax.Array, seeds: jax.Array, augmentation: Augmentation) -> jax.Array:
    crops = jnp.asarray(_crops(images.shape[1], images.shape[2], augmentation))
    return jax.vmap(lambda image, seed: _copy(image, seed, crops, augmentation))(images, seeds)


def _copy(image: jax.Array, seed: jax.Array, crops: jax.Array, augmentation: Augmentation) -> jax.Array:
    key = jax.random.wrap_key_data(seed, impl="threefry2x32")
    bits = jnp.concatenate([jax.random.key_data(jax.random.fold_in(key, draw)) for draw in range(4)])
    height, width = image.shape[:2]
    tall, wide = crops[below(bits[0], crops.shape[0])]
    rows = _places(height, tall, below(bits[1], height * _UNIT - tall + 1))
    columns = _places(width, wide, below(bits[2], width * _UNIT - wide + 1))
    if augmentation.flip:
        columns = jnp.where(below(bits[3], 2) == 1, columns[::-1], columns)
    pixels = _between(_between(image.astype(jnp.int32), rows, 0), columns, 1)
    pixels = (pixels + _UNIT * _UNIT // 2) // (_UNIT * _UNIT)
    pixels = _scaled(pixels, jnp.zeros((), jnp.int32), bits[4], augmentation.brightness)
    pixels = _scaled(pixels, jnp.sum(_luma(pixels)) // (height * width), bits[5], augmentation.contrast)
    return _scaled(pixels, _luma(pixels), bits[6], augmentation.saturation).astype(jnp.uint8)


def below(bits: jax.Array, count: jax.Array | int) -> jax.Array:
    """An int32 number below `count`, at most 65536, from 16 of 32 random bits."""
    return ((bits >> 16) * jnp.asarray(count).astype(jnp.uint32) >> 16).astype(jnp.int32)


def _crops(height: int, width: int, augmentation: Augmentation) -> np.ndarray:
    """Heights and widths of crops in parts of a pixel, int32[256, 2]: areas evenly, aspect ratios evenly in the log."""
    steps = (np.arange(_CHOICES) + 0.5) / _CHOICES
    areas = augmentation.least_area + (1 - augmentation.least_area) * steps
    ratios = augmentation.aspect ** (2 * steps - 1)
    area, ratio = (axis.reshape(-1) for axis in np.meshgrid(areas, ratios))
    sides = np.stack([height * np.sqrt(area / ratio), width * np.sqrt(area * ratio)], axis=1)
    limits = np.array([height, width]) * _UNIT
    return np.clip(np.rint(sides * _UNIT), _UNIT, limits).astype(np.int32)


def _places(size: int, length: jax.Array, start: jax.Array) -> jax.Array:
    """Where each of `size` pixels of a crop lies in the picture, int32[size] in parts of a pixel."""
    centers = (2 * jnp.arange(size, dtype=jnp.int32) + 1) * length // (2 * size)
    return jnp.clip(start + centers - _UNIT // 2, 0, (size - 1) * _UNIT)


def _between(values: jax.Array, places: jax.Array, axis: int) -> jax.Array:
    """Linear interpolation along an axis, times `_UNIT`."""
    first, part = places // _UNIT, places % _UNIT
    second = jnp.minimum(first + 1, values.shape[axis] - 1)
    weights = jnp.expand_dims(part, tuple(range(1, values.ndim - axis)))
    weights = jnp.expand_dims(weights, tuple(range(axis)))
    return jnp.take(values, first, axis=axis) * (_UNIT - weights) + jnp.take(values, second, axis=axis) * weights


def _luma(pixels: jax.Array) -> jax.Array:
    if pixels.shape[2] == 1:
        return pixels
    shares = jnp.asarray([_RED, _GREEN, _BLUE], jnp.int32)
    return jnp.sum(pixels * shares[None, None], axis=2, keepdims=True) // _ONE


def _scaled(pixels: jax.Array, center: jax.Array, bits: jax.Array, change: float) -> jax.Array:
    """Pixels moved from or to a center by a factor between 1 - change and 1 + change, clipped."""
    most = round(_ONE * change)
    factor = _ONE - most + below(bits, 2 * most + 1)
    center = jnp.broadcast_to(center, pixels.shape)
    moved = center + ((pixels - center) * factor + _ONE // 2) // _ONE
    return jnp.clip(moved, 0, 255)
