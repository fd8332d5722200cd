"""config.json in both directions, and the values that would compute something else."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.encoders import ENCODERS, BertConfig, ClipTextConfig, ClipVisionConfig, VitConfig
from erel_jax.errors import ConfigError, CorruptArtifactError
from erel_jax.interop.configurations import document_of, towers
from erel_jax.interop.families import FAMILIES
from erel_jax.layers.activation import activation

X = jnp.linspace(-3.0, 3.0, 7)

CONFIGS = [
    BertConfig.tiny("mean"),
    BertConfig.base("pooler"),
    VitConfig.tiny(),
    VitConfig.base_16(),
    ClipTextConfig.tiny(),
    ClipVisionConfig.tiny(),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{type(c).__name__}-{c.width}")
def test_round_trip(config):
    document = json.loads(json.dumps(document_of(config)))
    [(kind, section)] = towers(document, "config.json").values()
    names = ["text_projection.weight", "visual_projection.weight"]
    assert FAMILIES[kind].read(section, getattr(config, "pooling", "cls"), names) == config


def test_defaults_are_those_of_the_original_classes():
    assert FAMILIES["bert"].read({}, "cls", []) == BertConfig.base()
    assert FAMILIES["vit"].read({}, "cls", []) == VitConfig.base_16()
    assert FAMILIES["clip_text_model"].read({}, "cls", ["text_projection.weight"]) == ClipTextConfig.base_32()
    assert FAMILIES["clip_vision_model"].read({}, "cls", []) == ClipVisionConfig(projection=None)


def test_clip_has_two_towers_and_one_projection_width():
    document = {
        "model_type": "clip",
        "projection_dim": 10,
        "text_config": {"hidden_size": 16, "projection_dim": 512, "num_attention_heads": 2},
        "text_config_dict": {"hidden_size": 32},
        "vision_config": None,
    }
    found = towers(document, "config.json")
    text = FAMILIES["clip_text_model"].read(found["text"][1], "cls", [])
    assert (text.width, text.projection) == (32, 10)
    assert FAMILIES["clip_vision_model"].read(found["image"][1], "cls", []).projection == 10


@pytest.mark.parametrize(
    ("kind", "document", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"hidden_size": "768"}, "hidden_size"),
        ("bert", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("bert", {"layer_norm_eps": 2}, "layer_norm_eps"),
        ("bert", {"hidden_size": 100, "num_attention_heads": 12}, "heads"),
        ("vit", {"qkv_bias": False}, "qkv_bias"),
        ("vit", {"image_size": [224, 192]}, "square"),
        ("clip_text_model", {"eos_token_id": [1, 2]}, "eos_token_id"),
        ("vit", {"image_size": [20, 20, 20]}, "square"),
    ],
)
def test_what_is_not_implemented_is_refused(kind, document, message):
    with pytest.raises(ConfigError, match=message):
        FAMILIES[kind].read(document, "cls", [])


@pytest.mark.parametrize("name", [None, 5, ["gelu"]])
def test_activations_that_are_no_names_are_refused(name):
    with pytest.raises(ConfigError, match="unknown activation"):
        FAMILIES["bert"].read({"hidden_act": name}, "cls", [])


def test_sections_that_are_no_objects_are_refused():
    for kind in ("clip", "siglip"):
        with pytest.raises(ConfigError, match="text_config = 5, expected an object"):
            towers({"model_type": kind, "text_config": 5}, "config.json")


MALFORMED = [
    ("beit", {"layer_scale_init_value": None}, "layer_scale_init_value = None"),
    ("beit", {"layer_scale_init_value": "much"}, "layer_scale_init_value = 'much'"),
    ("beit", {"use_mean_pooling": "false"}, "use_mean_pooling"),
    ("gpt2", {"is_causal": "false"}, "is_causal"),
    ("modernbert", {"layer_types": 5}, "layer_types = 5"),
    ("modernbert", {"rope_parameters": [1]}, "rope_parameters"),
    ("modernbert", {"rope_parameters": {"full_attention": 5}}, "full_attention = 5"),
    ("llama", {"rope_parameters": {"rope_type": None}}, "rope_type = None"),
    ("llama", {"rope_parameters": {"rope_type": 7}}, "rope_type = 7"),
    ("llama", {"rope_parameters": {"rope_theta": float("nan")}}, "'theta': nan"),
    (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 4, "layer_types": None, "max_window_layers": "x"},
        "max_w",
    ),
    ("gemma2", {"layer_types": 5}, "layer_types = 5"),
    ("gemma3_text", {"rope_parameters": 5}, "rope_parameters = 5"),
    ("gemma3_text", {"rope_parameters": [1]}, "rope_parameters"),
    ("gemma3_text", {"rope_parameters": {"full_attention": 5}}, "full_attention = 5"),
    ("gemma3_text", {"attn_logit_softcapping": 2.0}, "attn_logit_softcapping = 2.0; only None"),
]


@pytest.mark.parametrize(("kind", "changes", "message"), MALFORMED, ids=str)
def test_malformed_values_are_refused(kind, changes, message):
    document = document_of(ENCODERS[kind].config.tiny())
    with pytest.raises(ConfigError, match=message):
        FAMILIES[kind].read({**document, **changes}, "mean", [])


def test_swish_is_silu():
    document = document_of(ENCODERS["bert"].config.tiny()) | {"hidden_act": "swish"}
    config = FAMILIES["bert"].read(document, "cls", [])
    ENCODERS["bert"].build(config)
    np.testing.assert_array_equal(activation(config.activation)(X), activation("silu")(X))


def test_unknown_architectures_are_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'vitt'.*Did you mean 'vit'.*clip"):
        towers({"model_type": "vitt"}, "config.json")
    with pytest.raises(ConfigError, match="no model_type"):
        towers({}, "config.json")


def test_code_from_the_repository_is_refused():
    with pytest.raises(CorruptArtifactError, match="never run"):
        towers({"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}}, "config.json")


def test_only_known_configs_are_written():
    class Other:
        width = layers = heads = mlp_width = 1
        activation, eps = "gelu", 1e-5

    with pytest.raises(ConfigError, match="Other"):
        document_of(Other())
