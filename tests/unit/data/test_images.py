"""The image door, fed with forged files: every mode, every kind of damage, hand-computed pixel values."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from erel_jax.data.images import MAX_FILE_BYTES, BadImage, decode_image, encode_png
from erel_jax.errors import DataError


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=format, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, raw: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(encoded(Image.fromarray(NOISE), "JPEG")[:-900], id="truncated jpeg"),
        pytest.param(encoded(Image.fromarray(NOISE))[:-2000], id="truncated png"),
        pytest.param(b"once upon a time there was a picture", id="text"),
        pytest.param(b"", id="empty"),
        pytest.param(encoded(Image.fromarray(NOISE))[:20], id="20 bytes"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", id="postscript"),
        pytest.param(png(4, 4, 8, 2, b"\0"), id="too few rows"),
    ],
)
def test_a_damaged_file_is_a_bad_image(damaged: bytes, tmp_path) -> None:
    with pytest.raises(BadImage) as caught:
        decode_image(damaged)
    assert isinstance(caught.value, DataError)
    path = tmp_path / "picture.jpg"
    path.write_bytes(damaged)
    with pytest.raises(BadImage, match=r"^picture\.jpg: "):
        decode_image(path)


def test_a_missing_file_is_a_bad_image(tmp_path) -> None:
    with pytest.raises(BadImage, match=r"absent\.png: cannot be read"):
        decode_image(tmp_path / "absent.png")


def test_a_file_beyond_the_byte_limit_is_not_read_whole(tmp_path) -> None:
    path = tmp_path / "endless.png"
    with open(path, "wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(BadImage, match="larger than"):
        decode_image(path)


@pytest.mark.parametrize("side", [8000, 10_000, 30_000])
def test_a_decompression_bomb_is_refused_from_its_header(side: int) -> None:
    # The forged body holds one row; decoding would fail with another message and allocate side * side * 3 bytes.
    with pytest.raises(BadImage, match="pixels"):
        decode_image(png(side, side, 8, 2, b"\0" * 100))


def test_a_decompression_bomb_does_not_allocate(plain_environment: dict[str, str]) -> None:
    program = (
        "import resource, sys\n"
        "from erel_jax.data.images import BadImage, decode_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode_image(sys.stdin.buffer.read())\nexcept BadImage:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    bomb = png(10_000, 10_000, 8, 2, (b"\0" * 30_001) * 1000)
    done = subprocess.run(
        [sys.executable, "-c", program], input=bomb, env=plain_environment, capture_output=True, check=True
    )
    assert int(done.stdout) < 100 * 1024  # KiB; the picture itself would take 293 MiB


def test_the_pixel_limit_is_inclusive() -> None:
    data = encoded(Image.new("RGB", (10, 7)))
    assert decode_image(data, max_pixels=70).shape == (7, 10, 3)
    with pytest.raises(BadImage, match="10x7 pixels, at most 69"):
        decode_image(data, max_pixels=69)


def test_the_switches_of_pillow_stay_as_they_are() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for data in (encoded(Image.new("RGB", (3, 3))), b"", png(10_000, 10_000, 8, 2, b"")):
        with contextlib.suppress(BadImage):
            decode_image(data)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_16_bit_gray_is_scaled_not_clipped() -> None:
    raw = b"\0" + np.array([0, 256, 32768, 65535], dtype=">u2").tobytes()
    # 256 * 255 / 65535 = 0.996, 32768 * 255 / 65535 = 127.502
    assert decode_image(png(4, 1, 16, 0, raw))[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_16_bit_color_keeps_its_range() -> None:
    raw = b"\0" + np.array([65535, 0, 32896], dtype=">u2").tobytes()
    assert decode_image(png(1, 1, 16, 2, raw))[0, 0].tolist() == [255, 0, 128]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.25, 1.0], [0, 64, 255]), ([-1.0, 0.0, 3.0], [0, 64, 255]), ([5.0, 5.0, 5.0], [0, 0, 0])],
    ids=["unit range", "own range", "constant"],
)
def test_float_images_have_a_defined_range(values: list[float], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert decode_image(data)[0, :, 1].tolist() == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_float_images_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(BadImage, match="not finite"):
        decode_image(encoded(Image.fromarray(np.array([[0.5, bad]], dtype=np.float32)), "TIFF"))


def test_32_bit_integers_in_16_bits_are_scaled_as_such() -> None:
    data = encoded(Image.fromarray(np.array([[0, 65535, 257]], dtype=np.int32)), "TIFF")
    assert decode_image(data)[0, :, 0].tolist() == [0, 255, 1]


def test_alpha_is_composited_on_the_background() -> None:
    pixels = np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    data = encoded(Image.fromarray(pixels))
    # 51 / 255 = 0.2 of black over white is 204.
    assert decode_image(data)[0].tolist() == [[255, 255, 255], [255, 0, 0], [204, 204, 204]]
    assert decode_image(data, background=(0, 0, 200))[0].tolist() == [[0, 0, 200], [255, 0, 0], [0, 0, 160]]


def test_gray_with_alpha() -> None:
    data = encoded(Image.fromarray(np.array([[[0, 0], [0, 255]]], dtype=np.uint8), mode=None))
    assert decode_image(data)[0].tolist() == [[255] * 3, [0] * 3]


def test_palette_with_a_transparent_color() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    assert decode_image(encoded(image))[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert decode_image(encoded(image, transparency=0))[0].tolist() == [[255] * 3, [40, 50, 60]]


def test_rgb_with_a_transparent_color() -> None:
    raw = b"\0" + bytes([1, 2, 3, 4, 5, 6])
    data = png(2, 1, 8, 2, raw, chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert decode_image(data)[0].tolist() == [[255] * 3, [4, 5, 6]]


def test_one_bit_gray_and_cmyk() -> None:
    assert decode_image(encoded(Image.new("1", (1, 1), 1))).tolist() == [[[255] * 3]]
    assert decode_image(encoded(Image.new("L", (1, 1), 77))).tolist() == [[[77] * 3]]
    cyan = decode_image(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF"))[0, 0]
    assert cyan.tolist() == [0, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_flag_is_applied(orientation: int) -> None:
    upright = np.zeros((24, 16, 3), dtype=np.uint8)
    upright[:8, :8] = (255, 0, 0)
    # How a camera stores the upright picture under each flag (EXIF 2.3, table 6).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data), upright)


def test_damaged_camera_notes_do_not_cost_the_picture() -> None:
    data = encoded(Image.fromarray(NOISE), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode_image(data), NOISE)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).tolist() == [[[255, 0, 0]] * 5] * 4


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_proportions_fit(width: int, height: int) -> None:
    picture = decode_image(encoded(Image.new("RGB", (width, height))), size=32)
    assert picture.shape == (32, 32, 3)
    assert (picture == 0).any()


def test_a_picture_is_fitted_without_distortion() -> None:
    picture = decode_image(encoded(Image.new("RGB", (8, 4), (9, 9, 9))), size=(6, 4), background=(1, 2, 3))
    # Width 8 becomes 4, so height 4 becomes 2, centered in 6 rows.
    assert picture[:2].reshape(-1, 3).tolist() == [[1, 2, 3]] * 8
    assert picture[2:4].reshape(-1, 3).tolist() == [[9, 9, 9]] * 8
    assert picture[4:].reshape(-1, 3).tolist() == [[1, 2, 3]] * 8


def test_png_round_trip() -> None:
    np.testing.assert_array_equal(decode_image(encode_png(NOISE)), NOISE)
    np.testing.assert_array_equal(decode_image(encode_png(NOISE[:, :, 0])), np.repeat(NOISE[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM"])
@pytest.mark.filterwarnings("ignore")
def test_whatever_is_in_the_file_the_outcome_is_a_picture_or_a_bad_image(format: str) -> None:
    whole = encoded(Image.fromarray(NOISE), format)
    generator = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        for position in generator.integers(0, len(damaged), 4):
            damaged[position] = generator.integers(0, 256)
        with contextlib.suppress(BadImage):
            picture = decode_image(bytes(damaged), size=16)
            assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
