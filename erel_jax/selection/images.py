"""Image filters: pictures that could not be read, are too small, too elongated or nearly of one color.

Pictures come as decoded pixels, one at a time, so they can be streamed; only reasons are kept in memory.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from erel_jax.errors import ConfigError, DataError
from erel_jax.selection.fingerprint import Fingerprint
from erel_jax.selection.outcome import KEPT, Outcome, decide

REASONS = ("unreadable", "too_small", "too_elongated", "near_constant")
_BAND_PIXELS = 2**18


@dataclass(frozen=True, kw_only=True)
class ImageRules:
    """Which pictures are kept; size and aspect are DataComp's basic filter.

    Attributes:
        min_side: fewest pixels of the shorter side.
        max_aspect: largest ratio of the longer to the shorter side.
        min_deviation: smallest standard deviation of the pixel values (0..255), over positions and channel by channel,
            of the most varied channel; a picture of one color has 0.
    """

    min_side: int = 200
    max_aspect: float = 3.0
    min_deviation: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_side < math.inf:
            raise ConfigError(f"min_side is {self.min_side}, expected a finite number of pixels, at least 1.")
        if not self.max_aspect >= 1:
            raise ConfigError(f"max_aspect is {self.max_aspect}, expected at least 1.")
        if not 0 <= self.min_deviation < 128:
            raise ConfigError(f"min_deviation is {self.min_deviation}, expected a value in 0..128.")


def filter_images(images: Iterable[np.ndarray | None], rules: ImageRules | None = None) -> Outcome:
    """Judges pictures one by one.

    Args:
        images: N pictures uint8[H, W, 3] or uint8[H, W], of any sizes, also a stream; None is a picture that could
            not be read.
        rules: what is kept, `ImageRules()` by default.

    Returns:
        The outcome; the reasons are `REASONS`, and a picture has the first one that applies.

    Raises:
        DataError: a picture is no array of that form (names the row), there are none, or none would be kept.

    Reference: the basic filter of DataComp (Gadre et al. 2023) for size and aspect.
    """
    chosen = rules or ImageRules()
    digest = Fingerprint("images")
    codes = []
    for row, pixels in enumerate(images):
        if pixels is not None and not _is_picture(pixels):
            got = f"{pixels.dtype}{list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise DataError(f"image of row {row} is {got}, expected uint8[H, W, 3], uint8[H, W] or None.")
        digest.picture(pixels)
        reason = _fault(pixels, chosen)
        codes.append(KEPT if reason is None else REASONS.index(reason))
    return decide("images", asdict(chosen), digest.digest(), np.asarray(codes, np.int16), REASONS)


def _is_picture(pixels: Any) -> bool:
    fits = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim in (2, 3)
    return fits and 0 not in pixels.shape[2:]


def _fault(pixels: np.ndarray | None, rules: ImageRules) -> str | None:
    if pixels is None:
        return "unreadable"
    short, long = sorted(pixels.shape[:2])
    if short < rules.min_side:
        return "too_small"
    if long > rules.max_aspect * short:
        return "too_elongated"
    return "near_constant" if _deviation(pixels) < rules.min_deviation else None


def _deviation(pixels: np.ndarray) -> float:
    """Standard deviation over positions of the most varied channel, a band of rows at a time."""
    count = pixels.shape[0] * pixels.shape[1]
    band = max(1, _BAND_PIXELS // pixels.shape[1])
    total = squares = np.zeros(pixels.shape[2:], np.int64)
    for start in range(0, pixels.shape[0], band):
        part = pixels[start : start + band].astype(np.int32)
        total = total + part.sum(axis=(0, 1), dtype=np.int64)
        squares = squares + (part * part).sum(axis=(0, 1), dtype=np.int64)
    variance = squares / count - (total / count) ** 2
    return float(np.sqrt(np.maximum(variance, 0).max()))
