"""Image rules, each by a picture that breaks this rule alone."""

from typing import Any, cast

import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError
from erel_jax.selection import ImageRules, filter_images, image_fingerprint, images

RULES = ImageRules(min_side=8, max_aspect=2.0)


def _noise(height, width, channels=(3,)):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def test_one_rule_at_a_time():
    flat = np.full((10, 10, 3), 128, np.uint8)
    flat[0, 0] = 130
    two_colors = flat.copy()
    two_colors[:5, :, 1] = 0
    pictures = [_noise(8, 16), None, _noise(7, 9), _noise(8, 17), flat, two_colors, _noise(9, 9, ())]
    outcome = filter_images(iter(pictures), RULES)
    reasons = [outcome.reason_of(row) for row in range(7)]
    assert reasons == [None, "unreadable", "too_small", "too_elongated", "near_constant", None, None]
    assert outcome.fingerprint == image_fingerprint(pictures) != image_fingerprint(pictures[1:])


def test_deviation_is_the_same_in_bands(monkeypatch):
    pictures = [_noise(13, 9), _noise(13, 9, ()), np.full((13, 9, 3), 255, np.uint8)]
    monkeypatch.setattr(images, "_BAND_PIXELS", 20)
    for picture in pictures:
        np.testing.assert_allclose(images._deviation(picture), np.std(picture, axis=(0, 1)).max(), rtol=1e-9)


def test_bad_input():
    with pytest.raises(DataError, match=r"row 0 is float64\[4, 4\]"):
        filter_images([np.zeros((4, 4))])
    with pytest.raises(DataError, match="row 0 is list"):
        filter_images(cast(Any, [[[0, 1], [2, 3]]]))
    with pytest.raises(DataError, match=r"row 0 is uint8\[4, 4, 0\]"):
        filter_images([np.zeros((4, 4, 0), np.uint8)])
    with pytest.raises(DataError, match="would remove all 1 rows"):
        filter_images([_noise(4, 4)])
    with pytest.raises(ConfigError, match="max_aspect"):
        ImageRules(max_aspect=0.5)
    with pytest.raises(ConfigError, match="min_side"):
        ImageRules(min_side=0)
    with pytest.raises(ConfigError, match="min_side is nan"):
        ImageRules(min_side=cast(Any, float("nan")))
    with pytest.raises(ConfigError, match="min_deviation"):
        ImageRules(min_deviation=-1)
