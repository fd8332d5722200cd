"""The one guarded door through which every picture enters.

Image files of real data sets are cut off, mislabeled, rotated by a flag, transparent, 16 bits deep, or built to
exhaust memory. `decode_image` turns any file of a common format into `uint8[H, W, 3]`, or raises `BadImage` with a
reason that fits in a report. The number of pixels is read from the file's header and checked before a pixel is
decoded. The process-wide switches of Pillow are never touched, so a program that embeds this package keeps its own.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from erel_jax.errors import DataError

MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 64 * 1024**2
WHITE = (255, 255, 255)
# Formats decoded inside Pillow itself; EPS, for one, starts an external program.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(DataError):
    """One image that cannot be used; `BadRecords` counts these instead of stopping at the first."""


def decode_image(
    source: bytes | str | os.PathLike[str],
    size: int | tuple[int, int] | None = None,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode an image file into upright 8-bit RGB.

    Args:
        source: The encoded file as bytes, or its path.
        size: `(height, width)` in pixels, or one number for a square. The picture is fitted inside without changing
            its proportions, centered, and the rest filled with `background`. None keeps its own size.
        background: Red, green, blue in 0..255 behind transparent pixels and beside a fitted picture.
        max_pixels: Largest width times height that is decoded.

    Returns:
        uint8[H, W, 3]. Of an animation, the first frame.

    Raises:
        BadImage: The file is missing, empty, cut off, of no supported format, too large, or has values that are not
            finite.

    Numerics:
        16-bit values are scaled by 255/65535 with rounding (Pillow's own conversion clips them at 255). 32-bit
        integer images whose values fit into 16 bits are treated the same way. Float images in 0..1 are scaled by 255;
        other float or integer images are mapped linearly from their own minimum and maximum (a constant one to 0).
        Transparent pixels are composited on `background` (Pillow's own conversion drops the alpha channel). Resizing
        is bicubic.
    """
    name, data = _read(source)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImage(f"{name}: {width}x{height} pixels, at most {max_pixels} are decoded")
            image.load()
            picture = _upright(_to_rgb(image, background), image)
    except (BadImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"{name}: more pixels than the {max_pixels} that are decoded") from error
    # A damaged file makes the format readers of Pillow raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise BadImage(f"{name}: not a readable image ({type(error).__name__}: {error})") from error
    if size is not None:
        picture = _fit(picture, (size, size) if isinstance(size, int) else size, background)
    return np.array(picture, dtype=np.uint8)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode pixels as PNG without loss, the inverse of `decode_image`.

    Args:
        pixels: uint8[H, W, 3] or uint8[H, W].

    Returns:
        The bytes of a PNG file.
    """
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _read(source: bytes | str | os.PathLike[str]) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        name, data = "image", source
    else:
        path = Path(source)
        name = path.name
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise BadImage(f"{name}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise BadImage(f"{name}: the file is empty")
    if len(data) > MAX_FILE_BYTES:
        raise BadImage(f"{name}: larger than {MAX_FILE_BYTES} bytes")
    return name, data


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if "A" in mode or "a" in mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise BadImage("image: pixel values that are not finite")
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255.0 / (high - low) if high > low else 0.0
    scaled = (values.astype(np.float64) - low) * scale
    return np.round(scaled).astype(np.uint8)


def _upright(picture: Image.Image, original: Image.Image) -> Image.Image:
    try:
        method = _UPRIGHT.get(original.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # camera notes are often damaged; the pixels are not
        return picture
    return picture if method is None else picture.transpose(method)


def _fit(picture: Image.Image, size: tuple[int, int], background: tuple[int, int, int]) -> Image.Image:
    height, width = size
    if picture.size == (width, height):
        return picture
    scale = min(width / picture.width, height / picture.height)
    inner = (max(1, min(width, round(picture.width * scale))), max(1, min(height, round(picture.height * scale))))
    resized = picture if inner == picture.size else picture.resize(inner, Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (width, height), background)
    canvas.paste(resized, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas
