"""Pixels equal those of the transformers processor, on the short way and on the long one."""

import json

import numpy as np
import pytest

from erel_jax.errors import ConfigError, CorruptArtifactError, DataError
from erel_jax.interop.image_processor import ImageProcessor, read_image_processor, vit_settings

CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 12, "width": 12},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 12},
}


def pictures(*shapes):
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def theirs(document, images, folder):
    import transformers

    (folder / "preprocessor_config.json").write_text(json.dumps(document))
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor(list(images), return_tensors="np", input_data_format="channels_last")["pixel_values"]
    return pixels.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("document", [vit_settings(12), CLIP], ids=["vit", "clip"])
def test_both_ways_equal_transformers(document, tmp_path):
    processor = ImageProcessor(document)
    assert processor.output_size == (12, 12)
    for images in (pictures((12, 12), (12, 12)), pictures((20, 30), (12, 13), (40, 14)), pictures((3, 3))):
        got = processor.process(images)
        assert got.dtype == np.float32 and got.shape == (len(images), 12, 12, 3)
        np.testing.assert_allclose(got, theirs(document, images, tmp_path), atol=1e-6)


def test_exact_size_needs_no_resizing_and_is_right_by_hand():
    processor = ImageProcessor(vit_settings(4, mean=0.25, std=0.5))
    batch = np.stack(pictures((4, 4), (4, 4), (4, 4)))
    np.testing.assert_allclose(processor.process(batch), (batch / 255 - 0.25) / 0.5, atol=1e-6)
    assert processor._processor is None


def test_missing_settings_are_the_defaults_of_the_class(tmp_path):
    document = {"image_processor_type": "ViTImageProcessor", "size": 12}
    images = pictures((12, 12))
    np.testing.assert_allclose(ImageProcessor(document).process(images), theirs(document, images, tmp_path), atol=1e-6)


def test_no_normalization_and_no_rescaling():
    document = {**vit_settings(2), "do_normalize": False, "do_rescale": False}
    images = pictures((2, 2))
    np.testing.assert_array_equal(ImageProcessor(document).process(images)[0], images[0])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(DataError, match="image 1 is"):
        ImageProcessor(vit_settings(4)).process([np.zeros((4, 4, 3), np.uint8), image])


def output_size(folder):
    processor = read_image_processor(folder)
    return None if processor is None else processor.output_size


def test_folders(tmp_path):
    assert read_image_processor(tmp_path) is None
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": vit_settings(4)}))
    assert output_size(tmp_path) == (4, 4)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(vit_settings(6)))
    assert output_size(tmp_path) == (6, 6)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**vit_settings(6), "auto_map": {"A": "evil.P"}}))
    with pytest.raises(CorruptArtifactError, match="never run"):
        read_image_processor(tmp_path)


def test_useless_settings_are_refused():
    with pytest.raises(ConfigError, match="image_std"):
        ImageProcessor(vit_settings(4, std=0.0))
    with pytest.raises(ConfigError, match="image processor settings"):
        ImageProcessor({"image_processor_type": "NoSuchProcessor"})


@pytest.mark.parametrize(
    "setting",
    [
        {"image_mean": [float("nan")] * 3},
        {"image_mean": None},
        {"image_mean": [0.5] * 4},
        {"image_std": "x"},
        {"rescale_factor": float("nan")},
        {"rescale_factor": 0},
        {"do_rescale": "no"},
        {"size": {"height": "a", "width": "b"}},
        {"size": {"height": -3, "width": 12}},
        {"resample": 99},
        {"image_processor_type": 5, "size": 12},
    ],
    ids=str,
)
def test_settings_that_would_give_no_pixels_are_refused(setting):
    with pytest.raises(ConfigError, match="the image processor"):
        ImageProcessor({**vit_settings(12), **setting})
