"""Configs, sizes and refusals of the text families."""

import json

import numpy as np
import pytest

from erel_jax.encoders import ENCODERS, DistilBertConfig, RobertaConfig, XlmRobertaConfig
from erel_jax.errors import ConfigError
from erel_jax.interop.configurations import document_of, family_of, towers
from erel_jax.interop.families import FAMILIES
from erel_jax.module import count

PUBLISHED = [
    (RobertaConfig.base(), 124_055_040),
    (RobertaConfig.base("pooler"), 124_645_632),
    (XlmRobertaConfig(pooling="pooler"), 278_043_648),
    (DistilBertConfig.base(), 66_362_880),
]


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED, ids=lambda value: type(value).__name__)
def test_parameter_counts_are_the_published_ones(config, parameters):
    kind = document_of(config)["model_type"]
    assert count(ENCODERS[kind].build(config).module.spec) == parameters


TEXT_KINDS = ["roberta", "xlm-roberta", "distilbert"]


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_configs_survive_their_document(kind):
    for config in (ENCODERS[kind].config.tiny("mean"), ENCODERS[kind].config()):
        assert family_of(config) is FAMILIES[kind]
        document = json.loads(json.dumps(document_of(config)))
        [(found, section)] = towers(document, "config.json").values()
        assert found == kind
        assert FAMILIES[kind].read(section, config.pooling, []) == config


@pytest.mark.parametrize(
    ("kind", "document", "message"),
    [
        ("roberta", {"is_decoder": True}, "is_decoder"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id = -1"),
        ("xlm-roberta", {"pad_token_id": 511}, "512 max_position_embeddings"),
        ("roberta", {"hidden_act": "swishy"}, "swishy"),
        ("distilbert", {"n_heads": 7}, "heads 7"),
    ],
)
def test_what_is_not_implemented_is_refused(kind, document, message):
    with pytest.raises(ConfigError, match=message):
        FAMILIES[kind].read(document, "cls", [])


def test_poolings_are_checked():
    with pytest.raises(ConfigError, match="'pooler' of a DistilBERT"):
        DistilBertConfig(pooling="pooler")
    with pytest.raises(ConfigError, match="mean"):
        RobertaConfig(pooling="means")


def test_roberta_positions_start_after_the_padding_row():
    config = RobertaConfig.tiny()
    encoder = ENCODERS["roberta"].build(config)
    draw = np.random.default_rng(0)
    rows = encoder.module.spec["embeddings"]["position"]["table"].shape[0]
    assert rows == config.max_positions + 2
    params = {
        "embeddings": {
            "token": {"table": np.zeros((64, 16), np.float32)},
            "type": {"table": np.zeros((1, 16), np.float32)},
            "position": {"table": draw.normal(size=(rows, 16)).astype(np.float32)},
            "norm": {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)},
        },
        "layers": {},
    }
    mask = np.array([[True, True, True], [True, False, False]])
    inputs = {"ids": np.zeros((2, 3), np.int32), "mask": mask}
    states = encoder.module.apply(params, inputs, taps=(0,), embedding=False, hidden_states=False).taps
    first = params["embeddings"]["position"]["table"][config.padding_id + 1]
    expected = (first - first.mean()) / np.sqrt(first.var() + config.eps)
    np.testing.assert_allclose(states[:, 0], np.stack([expected, expected]), rtol=1e-5, atol=1e-6)
