"""Resizing and cropping of decoded pictures, as image encoders were trained on them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from erel_jax.data.images import MAX_PIXELS, BadImage


def fit_picture(
    pixels: np.ndarray, size: Mapping[str, Any] | None, crop: tuple[int, int] | None, resample: int
) -> np.ndarray:
    """Resizes, then crops the center.

    Args:
        pixels: uint8[H, W, 3].
        size: `{"height", "width"}` or else `{"shortest_edge"}` as in a `preprocessor_config.json`; None keeps the size.
        crop: (height, width) of the center to keep, or None for all.
        resample: number of the filter, as Pillow counts them.

    Returns:
        uint8[h, w, 3]; a crop larger than the picture is filled with black around it.

    Raises:
        BadImage: a narrow picture would grow beyond `images.MAX_PIXELS`.

    Reference: the result equals that of the Pillow backend of transformers' image processors, several times as fast.
    """
    height, width = pixels.shape[:2]
    if size is not None:
        if size.get("height") and size.get("width"):
            height, width = int(size["height"]), int(size["width"])
        else:
            edge, short, long = int(size["shortest_edge"]), min(height, width), max(height, width)
            other = int(edge * long / short)
            height, width = (edge, other) if height <= width else (other, edge)
    if height * width > MAX_PIXELS:
        raise BadImage(f"{pixels.shape[1]}x{pixels.shape[0]} pixels would become {width}x{height}, too many")
    if pixels.shape[:2] != (height, width):
        picture = Image.fromarray(pixels).resize((width, height), resample=Image.Resampling(resample))
        pixels = np.asarray(picture)
    return pixels if crop is None else _center(pixels, *crop)


def _center(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = pixels.shape[:2]
    top, left = (rows - height) // 2, (columns - width) // 2
    if top < 0 or left < 0:
        larger = np.zeros((max(rows, height), max(columns, width), 3), np.uint8)
        above, before = -(-(len(larger) - rows) // 2), -(-(larger.shape[1] - columns) // 2)
        larger[above : above + rows, before : before + columns] = pixels
        pixels, top, left = larger, max(0, top + above), max(0, left + before)
    return pixels[top : top + height, left : left + width]
