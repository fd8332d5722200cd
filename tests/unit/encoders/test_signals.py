"""Configs and inputs of video and audio encoders that cannot work are refused with both sides named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.encoders import (
    AstConfig,
    BeitConfig,
    DeitConfig,
    Dinov2Config,
    Dinov2RegistersConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
    VideoMaeConfig,
    VitConfig,
    WhisperConfig,
    whisper,
)
from erel_jax.encoders.signals import check_audio, check_image_grid, check_video
from erel_jax.errors import ConfigError
from erel_jax.interop.configurations import document_of, towers
from erel_jax.interop.families import FAMILIES
from erel_jax.module import init


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VideoMaeConfig(frames=15), "frames 15.*tubelet 2"),
        (lambda: VideoMaeConfig(final_norm="token"), "tokens"),
        (lambda: AstConfig(bins=12), "12 bins holds no patch of side 16"),
        (lambda: WhisperConfig(positions=0), "0 positions"),
        (lambda: WhisperConfig(width=27, heads=3), "width 27 is odd"),
        (lambda: BeitConfig(read="max"), "mean"),
        (lambda: SiglipTextConfig(vocabulary=9, pad_id=9), "pad_id 9"),
    ],
)
def test_configs_are_checked_when_made(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_video({}, 4, 8, 3), "video inputs lack 'video'.*4, 8, 8, 3"),
        (
            lambda: check_video({"video": jnp.zeros((2, 3, 8, 8, 3))}, 4, 8, 3),
            r"\[2, 3, 8, 8, 3\].*\[B, 4",
        ),
        (lambda: check_audio({"features": jnp.zeros((2, 9, 5))}, "features", 8, 5), r"\[2, 9, 5\].*\[B, 8, 5\]"),
        (lambda: check_audio({"features": jnp.zeros((2, 8, 5), jnp.int16)}, "features", 8, 5), "int16"),
        (lambda: check_image_grid({"pixels": jnp.zeros((2, 8, 9, 3))}, 4, 3), "multiples of 4"),
        (lambda: check_image_grid({"pixels": jnp.zeros((2, 8, 0, 3))}, 4, 3), "multiples of 4"),
    ],
)
def test_inputs_are_checked(check, message):
    with pytest.raises(ConfigError, match=message):
        check()


@pytest.mark.parametrize(
    ("kind", "document", "message"),
    [
        ("beit", {}, "exactly one"),
        ("beit", {"use_relative_position_bias": True, "use_absolute_position_embeddings": True}, "absolute"),
        ("dinov2", {"use_swiglu_ffn": "yes"}, "swiglu"),
        ("dinov2_with_registers", {"num_register_tokens": 0}, "num_register_tokens"),
        ("siglip_vision_model", {"vision_use_head": False}, "vision_use_head"),
        ("siglip_text_model", {"pad_token_id": "<pad>"}, "pad_token_id"),
    ],
)
def test_documents_that_compute_something_else_are_refused(kind, document, message):
    with pytest.raises(ConfigError, match=message):
        FAMILIES[kind].read(document, "cls", [])


def test_siglip_2_pads_with_the_first_id_of_its_vocabulary():
    read = FAMILIES["siglip_text_model"].read
    assert read({}, "cls", []).pad_id == 1
    assert read({"vocab_size": 256000}, "cls", []).pad_id == 0
    assert read({"vocab_size": 256000, "pad_token_id": 3}, "cls", []).pad_id == 3


def test_whisper_starts_from_sines_and_cosines_at_geometric_rates():
    spec = whisper(WhisperConfig(positions=3, bins=2, width=6, layers=1, heads=2, mlp_width=4)).module.spec
    table = init(jax.random.key(0), spec["embeddings"]["position"])["table"]
    rates = np.array([1.0, 1e-2, 1e-4])
    np.testing.assert_allclose(table[2], [*np.sin(2 * rates), *np.cos(2 * rates)], atol=1e-6)
    assert table.dtype == jnp.float32


@pytest.mark.parametrize(
    "config",
    [
        AstConfig.tiny(),
        BeitConfig(relative="shared", read="cls", image_size=384, trained_size=224),
        DeitConfig(image_size=384, trained_size=224),
        Dinov2Config.tiny(),
        Dinov2Config.giant_14(),
        Dinov2RegistersConfig.tiny(),
        SiglipTextConfig(projection=10, pad_id=0),
        SiglipVisionConfig(image_size=384, patch=14, trained_size=224),
        VideoMaeConfig(tubelet=4, biases=False, final_norm="mean"),
        VideoMaeConfig(final_norm="none"),
        VitConfig(image_size=160, trained_size=224),
        WhisperConfig.large_v3(),
    ],
    ids=lambda config: type(config).__name__,
)
def test_documents_round_trip(config):
    [(kind, section)] = towers(json.loads(json.dumps(document_of(config))), "config.json").values()
    names = ["fc_norm.weight"] if getattr(config, "final_norm", "") == "mean" else []
    assert FAMILIES[kind].read(section, "cls", names) == config


def test_a_siglip_model_has_two_towers():
    document = {"model_type": "siglip", "text_config": {"hidden_size": 24}, "vision_config": None}
    found = towers(document, "config.json")
    text = FAMILIES["siglip_text_model"].read(found["text"][1], "cls", [])
    assert (text.width, text.projection) == (24, 24)
    assert FAMILIES["siglip_vision_model"].read(found["image"][1], "cls", []) == SiglipVisionConfig()
