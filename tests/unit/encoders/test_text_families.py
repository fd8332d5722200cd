"""Configs, sizes and refusals of the text families."""

import json

import numpy as np
import pytest

from erel_jax.encoders import (
    ENCODERS,
    DistilBertConfig,
    Gemma2Config,
    Gemma3Config,
    Gpt2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XlmRobertaConfig,
)
from erel_jax.encoders.decoder import DecoderConfig
from erel_jax.errors import ConfigError
from erel_jax.interop.configurations import document_of, family_of, towers
from erel_jax.interop.families import FAMILIES
from erel_jax.module import count

PUBLISHED = [
    (RobertaConfig.base(), 124_055_040),
    (RobertaConfig.base("pooler"), 124_645_632),
    (XlmRobertaConfig(pooling="pooler"), 278_043_648),
    (DistilBertConfig.base(), 66_362_880),
    (ModernBertConfig.base(), 149_014_272),
    (ModernBertConfig.large(), 394_781_696),
    # The models without their language-model heads of vocabulary times width.
    (LlamaConfig(), 6_738_415_616 - 32_000 * 4096),
    (LlamaConfig.llama_3_8b(), 8_030_261_248 - 128_256 * 4096),
    (LlamaConfig.llama_3_70b(), 70_553_706_496 - 128_256 * 8192),
    (MistralConfig.mistral_7b(), 7_241_732_096 - 32_000 * 4096),
    (Qwen2Config(), 7_615_616_512 - 152_064 * 3584),
    (Qwen3Config(), 8_190_735_360 - 151_936 * 4096),
    # Their heads are the embedding tables again and are published as one.
    (Gemma2Config(), 2_614_341_888),
    (Gemma3Config(), 999_885_952),
    (Gpt2Config(), 124_439_808),
]


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED, ids=lambda value: type(value).__name__)
def test_parameter_counts_are_the_published_ones(config, parameters):
    kind = document_of(config)["model_type"]
    assert count(ENCODERS[kind].build(config).module.spec) == parameters


TEXT_KINDS = [
    "roberta",
    "xlm-roberta",
    "distilbert",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "modernbert",
]


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
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "proportional"}}, "'proportional'.*default"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": "4"}}, "yarn.*'factor': '4'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "llama3.*'low': None"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "factor 0.5"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "flat"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic"}}, "'dynamic'.*'factor': None"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0, "short_factor": 3}}, "short_factor = 3"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"num_key_value_heads": 5}, "kv_heads 5"),
        ("llama", {"head_dim": 7}, "head_width 7"),
        ("llama", {"hidden_act": "swish_glu"}, "swish_glu"),
        ("llama", {"is_causal": "no"}, "is_causal"),
        ("mistral", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ("mistral", {"sliding_window": 0}, "sliding_window"),
        ("qwen2", {"use_sliding_window": True, "layer_types": ["full_attention"]}, "1 layer_types"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_head": 7}, "heads 7"),
        ("modernbert", {"norm_bias": True}, "norm_bias"),
        ("modernbert", {"num_attention_heads": 7}, "heads 7"),
        ("modernbert", {"local_attention": 1}, "window 0"),
        ("modernbert", {"layer_types": ["full_attention"]}, "1 layer_types"),
        ("modernbert", {"hidden_activation": "swish_glu"}, "swish_glu"),
        ("gemma2", {"use_bidirectional_attention": True}, "Gemma 3 alone"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma2", {"attn_logit_softcapping": -1.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"rope_parameters": {"full_attention": {"rope_type": "proportional"}}}, "proportional"),
    ],
)
def test_what_is_not_implemented_is_refused(kind, document, message):
    whole = document_of(ENCODERS[kind].config.tiny()) if isinstance(ENCODERS[kind].config(), DecoderConfig) else {}
    with pytest.raises(ConfigError, match=message):
        FAMILIES[kind].read({**whole, **document}, "cls", [])


def test_modernbert_is_read_from_the_first_form_of_its_configuration():
    released = {
        "model_type": "modernbert", "attention_bias": False, "classifier_pooling": "mean", "decoder_bias": True,
        "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "hidden_activation": "gelu",
        "hidden_size": 768, "intermediate_size": 1152, "layer_norm_eps": 1e-05, "local_attention": 128,
        "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "norm_bias": False, "norm_eps": 1e-05,
        "num_attention_heads": 12, "num_hidden_layers": 22, "pad_token_id": 50283, "vocab_size": 50368,
    }  # fmt: skip
    assert FAMILIES["modernbert"].read(released, "cls", []) == ModernBertConfig.base()
    other = {**released, "global_rope_theta": 500.0, "local_rope_theta": 20.0, "global_attn_every_n_layers": 2}
    read = FAMILIES["modernbert"].read({**other, "num_hidden_layers": 4}, "cls", [])
    assert (read.rotary.theta, read.local_rotary.theta) == (500.0, 20.0)
    assert read.windowed == (False, True, False, True)


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
