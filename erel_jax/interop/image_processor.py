"""Pictures to normalized pixels, as a folder's `preprocessor_config.json` says.

Resizing and cropping go through the transformers image processor with its Pillow backend, so that pixels equal those
the model was trained on. Pictures that have the right size already only need arithmetic, which is done in NumPy for
the whole batch.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.errors import ConfigError, DataError
from erel_jax.folders import safe_join
from erel_jax.interop.configurations import refuse_code
from erel_jax.interop.safetensors_folder import read_json

_SETTINGS = ("do_resize", "size", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
_SIZES = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")


@dataclass(frozen=True, kw_only=True)
class PixelSettings:
    """What happens to a decoded picture before an encoder reads it: resize, crop, then `pixels · scale + shift`.

    Attributes:
        resize: `{"height", "width"}` or `{"shortest_edge"}`, None to keep the size.
        crop: (height, width) of the center that is kept, None for all.
        resample: number of the resizing filter, as Pillow counts them.
        scale, shift: float32[3] by channel.
    """

    resize: dict[str, Any] | None
    crop: tuple[int, int] | None
    resample: int
    scale: np.ndarray
    shift: np.ndarray


class ImageProcessor:
    """Resize, crop, rescale and normalize.

    Args:
        document: a parsed `preprocessor_config.json`.

    Attributes:
        document: the settings, as stored.
        output_size: (height, width) of the results, or None where it depends on the picture.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._processor: Any = None
        settings = document if _is_complete(document) else self._resolved()
        for name in ("do_resize", "do_rescale", "do_normalize", "do_center_crop"):
            if not isinstance(settings.get(name), bool | None):
                raise ConfigError(f"the image processor has {name} = {settings[name]!r}, expected true or false.")
        if (resample := document.get("resample")) is not None and resample not in range(6):
            raise ConfigError(f"the image processor has resample = {resample!r}, expected a filter of Pillow, 0 to 5.")
        scale = _numbers(settings, "rescale_factor") if settings["do_rescale"] else np.ones(())
        if scale.ndim or not scale > 0:
            raise ConfigError(f"the image processor has rescale_factor = {scale.tolist()}, expected a positive number.")
        mean = _numbers(settings, "image_mean") if settings["do_normalize"] else np.zeros(())
        std = _numbers(settings, "image_std") if settings["do_normalize"] else np.ones(())
        if not (std > 0).all():
            raise ConfigError(f"image_std {std.tolist()} must be positive.")
        values = (np.arange(256, dtype=np.float64)[:, None] * scale - mean) / std
        self._table = np.broadcast_to(values.astype(np.float32), (256, 3))
        self._resize = settings["size"] if settings["do_resize"] else None
        self._crop = settings["crop_size"] if settings.get("do_center_crop") else None
        self.output_size = _pair(self._crop) or _pair(self._resize)

    def pixel_settings(self) -> PixelSettings | None:
        """The settings for who decodes, resizes and normalizes by himself; None where they are of other kinds."""
        resize = {name: self._resize.get(name) for name in _SIZES if self._resize.get(name)} if self._resize else None
        simple = resize is None or set(resize) in ({"height", "width"}, {"shortest_edge"})
        if not simple or self.document.get("do_pad") or (self._crop is not None and _pair(self._crop) is None):
            return None
        resample = self.document.get("resample")
        if resample is None and resize is not None:
            resample = getattr(self.processor, "resample", None)
        shift = self._table[0]
        return PixelSettings(
            resize=resize,
            crop=_pair(self._crop),
            resample=2 if resample is None else int(resample),
            scale=((self._table[255].astype(np.float64) - shift) / 255).astype(np.float32),
            shift=np.array(shift),
        )

    @property
    def processor(self) -> Any:
        """The transformers processor behind the general path, loaded when first needed."""
        if self._processor is None:
            self._processor = _transformers_processor(self.document)
        return self._processor

    def _resolved(self) -> dict[str, Any]:
        """Every setting, with the defaults of the processor's class where the document leaves them out."""
        names = (*_SETTINGS, "do_center_crop", "crop_size")
        return {name: getattr(self.processor, name, None) for name in names}

    def process(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Normalized pixels.

        Args:
            images: uint8[N, H, W, 3], or N arrays uint8[H, W, 3] of any sizes.

        Returns:
            float32[N, h, w, 3], the `pixels` of an image encoder.

        Raises:
            DataError: an array is not uint8 with three channels last.
        """
        for i, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise DataError(f"image {i} is {image.dtype}{list(image.shape)}, expected uint8[H, W, 3].")
        if self._is_exact(images):
            return self._normalize(np.asarray(images))
        batch = self.processor(list(images), input_data_format="channels_last", return_tensors="np")
        return np.ascontiguousarray(np.asarray(batch["pixel_values"], np.float32).transpose(0, 2, 3, 1))

    def _is_exact(self, images: np.ndarray | Sequence[np.ndarray]) -> bool:
        """Whether resizing and cropping would change nothing."""
        shapes = {image.shape[:2] for image in images}
        if len(shapes) != 1:
            return False
        shape = shapes.pop()
        if self.output_size is not None and shape != self.output_size:
            return False
        if self._resize is None or _pair(self._resize) == shape:
            return True
        return self._resize.get("shortest_edge") == min(shape) and not self._resize.get("longest_edge")

    def _normalize(self, images: np.ndarray) -> np.ndarray:
        pixels = np.empty(images.shape, np.float32)
        for channel in range(3):
            np.take(self._table[:, channel], images[..., channel], out=pixels[..., channel])
        return pixels


def read_image_processor(folder: str | os.PathLike[str], link_root: Path | None = None) -> ImageProcessor | None:
    """The image processor of a Hugging Face folder, or None where it has no settings for one.

    Raises:
        CorruptArtifactError: the file is damaged, or asks for code.
        ConfigError: the processor is of a kind that transformers does not know.
    """
    path = safe_join(folder, "preprocessor_config.json", link_root=link_root)
    document: dict[str, Any] = read_json(path) if path.is_file() else {}
    if not path.is_file():
        path = safe_join(folder, "processor_config.json", link_root=link_root)
        document = (read_json(path).get("image_processor") or {}) if path.is_file() else {}
    if not document:
        return None
    refuse_code(document, path)
    return ImageProcessor(document)


def vit_settings(image_size: int, mean: float = 0.5, std: float = 0.5) -> dict[str, Any]:
    """A `preprocessor_config.json` for a ViT: bilinear resize to a square, then `(x / 255 - mean) / std`."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean] * 3,
        "image_std": [std] * 3,
    }


def _is_complete(document: dict[str, Any]) -> bool:
    """Whether the document leaves nothing to a processor's defaults, so that transformers need not be loaded."""
    crops = document.get("do_center_crop", not str(document.get("image_processor_type", "")).startswith("ViTImage"))
    sizes = [document.get("size"), *([document.get("crop_size")] if crops else [])]
    return all(name in document for name in _SETTINGS) and all(isinstance(size, dict) for size in sizes)


def _transformers_processor(document: dict[str, Any]) -> Any:
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(document), encoding="utf-8")
        try:
            return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise ConfigError(f"the image processor settings cannot be used ({error}).") from error


def _numbers(settings: dict[str, Any], name: str) -> np.ndarray:
    """float64[3] or float64[] of a setting.

    Raises:
        ConfigError: it is missing, no number, not finite, or of other than three channels.
    """
    try:
        values = np.asarray(settings[name], np.float64)
    except (TypeError, ValueError):
        values = np.asarray(np.nan)
    if values.shape not in ((), (3,)) or not np.isfinite(values).all():
        raise ConfigError(f"the image processor has {name} = {settings[name]!r}, expected one or three finite numbers.")
    return values


def _pair(size: Any) -> tuple[int, int] | None:
    """(height, width) of a size setting, or None where there is none or it is an edge length."""
    if not size:
        return None
    height, width = size.get("height"), size.get("width")
    if not height or not width:
        return None
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in (height, width)):
        raise ConfigError(f"the image processor has a size of {height!r} by {width!r}, expected positive integers.")
    return height, width
