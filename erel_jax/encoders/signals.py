"""Inputs of image, video and audio encoders, with their shapes checked at trace time."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError


def check_image_grid(inputs: Mapping[str, jax.Array], patch: int, channels: int) -> jax.Array:
    """The pixels of an image batch whose size is free.

    Args:
        inputs: `{"pixels": float32[B, H, W, C]}`.
        patch: side of a patch; H and W must be multiples of it.
        channels: expected number of channels.

    Returns:
        float[B, H, W, C].

    Raises:
        ConfigError: the key is missing, the shape does not fit, or pixels are not floating point.
    """
    expected = f"float32[B, H, W, {channels}] with H and W multiples of {patch}"
    pixels = _named(inputs, "pixels", "image", expected)
    if pixels.ndim != 4 or pixels.shape[3] != channels or any(not n or n % patch for n in pixels.shape[1:3]):
        raise ConfigError(f"got pixels {list(pixels.shape)}, expected {expected}; run the image processor first.")
    return _floating(pixels, "pixels", expected)


def check_video(inputs: Mapping[str, jax.Array], frames: int, image_size: int, channels: int) -> jax.Array:
    """The frames of a video batch.

    Args:
        inputs: `{"video": float32[B, F, H, W, C]}`.
        frames: expected number of frames F.
        image_size: expected H and W in pixels.
        channels: expected number of channels C.

    Returns:
        float[B, F, H, W, C].

    Raises:
        ConfigError: the key is missing, the shape differs, or values are not floating point.
    """
    return _check_shape(inputs, "video", "video", (frames, image_size, image_size, channels))


def check_audio(inputs: Mapping[str, jax.Array], name: str, frames: int, bins: int) -> jax.Array:
    """The mel frames of an audio batch.

    Args:
        inputs: `{name: float32[B, T, M]}`.
        name: "spectrogram" or "features".
        frames: expected number of time frames T.
        bins: expected number of mel bins M.

    Returns:
        float[B, T, M].

    Raises:
        ConfigError: the key is missing, the shape differs, or values are not floating point.
    """
    return _check_shape(inputs, name, "audio", (frames, bins))


def _check_shape(inputs: Mapping[str, jax.Array], name: str, modality: str, shape: tuple[int, ...]) -> jax.Array:
    expected = f"float32[B, {', '.join(map(str, shape))}]"
    value = _named(inputs, name, modality, expected)
    if value.shape[1:] != shape:
        raise ConfigError(
            f"got {name} {list(value.shape)}, expected {expected}; sample, cut or pad every example to that length."
        )
    return _floating(value, name, expected)


def _named(inputs: Mapping[str, jax.Array], name: str, modality: str, expected: str) -> jax.Array:
    if name not in inputs:
        raise ConfigError(f"{modality} inputs lack {name!r}; expected {{{name!r}: {expected}}}.")
    return inputs[name]


def _floating(value: jax.Array, name: str, expected: str) -> jax.Array:
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ConfigError(f"got {name} of dtype {value.dtype}, expected normalized {expected}.")
    return value
