"""Features of pictures of the noise experiment: by hand, and of a frozen encoder."""

import sys

import jax
import numpy as np
import pytest

from erel_jax import module
from erel_jax.encoders import VitConfig, vit
from erel_jax.errors import ConfigError
from erel_jax.interop.export import save_encoder
from erel_jax.interop.image_processor import vit_settings
from experiments import picture_vectors as features


def test_a_plain_picture_has_colors_and_no_edges_and_a_step_has_one_angle() -> None:
    plain = np.zeros((1, 64, 64, 3), np.uint8)
    plain[...] = (255, 0, 51)
    found = features.edges_and_colors(plain)[0]
    edges, colors = found[:576], found[576:].reshape(64, 3)
    assert not edges.any()
    np.testing.assert_allclose(colors, np.broadcast_to([1.0, 0.0, 0.2], (64, 3)), atol=1e-6)
    step = np.zeros((1, 64, 64, 3), np.uint8)
    step[:, :, 28:] = 255  # a vertical edge inside the fourth column of cells: the gradient points across, angle 0
    cells = features.edges_and_colors(step)[0][:576].reshape(8, 8, features.ANGLES)
    assert (cells[:, 3, 0] > 0.5).all() and not cells[:, 3, 1:].any() and not cells[:, [0, 1, 2, 4, 5, 6, 7]].any()


def test_an_encoder_sees_every_picture_alone(tmp_path, monkeypatch) -> None:
    image = vit(VitConfig.tiny())
    params = module.init(jax.random.key(0), image.module.spec)
    save_encoder(tmp_path / "image", image, params, preprocessor=vit_settings(VitConfig.tiny().image_size))
    monkeypatch.setattr(features, "ROWS", 4)  # six pictures are two batches, the second filled up
    pictures = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    found = features.picture_vectors(str(tmp_path / "image"), pictures)
    assert found.shape == (6, image.width) and found.dtype == np.float32
    np.testing.assert_allclose(features.picture_vectors(str(tmp_path / "image"), pictures[5:]), found[5:], atol=1e-5)


def test_what_is_missing_for_the_imagenet_encoder_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match="pip install"):
        features.picture_vectors(features.LITE0, np.zeros((1, 64, 64, 3), np.uint8))
