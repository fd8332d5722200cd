"""Encoders of Whisper folders; the decoder's tensors are not read."""

from collections.abc import Mapping
from typing import Any

from erel_jax.encoders.whisper import TAPS, WhisperConfig
from erel_jax.interop.config_keys import integer
from erel_jax.interop.families.family import Family
from erel_jax.interop.weight_map import SAME, Layout, Source, WeightMap, linear, norm, table


def whisper_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> WhisperConfig:
    """`WhisperConfig` from the keys of a Hugging Face Whisper configuration."""
    return WhisperConfig(
        positions=integer(document, "max_source_positions", 1500),
        bins=integer(document, "num_mel_bins", 80),
        width=integer(document, "d_model", 384),
        layers=integer(document, "encoder_layers", 4),
        heads=integer(document, "encoder_attention_heads", 6),
        mlp_width=integer(document, "encoder_ffn_dim", 1536),
        activation=document.get("activation_function", "gelu"),
    )


def whisper_document(config: WhisperConfig) -> dict[str, Any]:
    """Keys of the `config.json` of `WhisperForAudioClassification`, the original without a decoder."""
    return {
        "architectures": ["WhisperForAudioClassification"],
        "model_type": "whisper",
        "max_source_positions": config.positions,
        "num_mel_bins": config.bins,
        "d_model": config.width,
        "encoder_layers": config.layers,
        "encoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.mlp_width,
        "activation_function": config.activation,
        "dtype": "float32",
    }


def whisper_map(config: WhisperConfig) -> WeightMap:
    """Names of Whisper's encoder; decoder, projections and classifiers are ignored."""
    layer = "layers.{i}"
    sources = {
        "embeddings/first/kernel": Source("conv1.weight", frames(config.bins)),
        "embeddings/first/bias": Source("conv1.bias", SAME),
        "embeddings/second/kernel": Source("conv2.weight", frames(config.width)),
        "embeddings/second/bias": Source("conv2.bias", SAME),
        **table("embeddings/position", "embed_positions"),
        **linear("layers/attention/query", f"{layer}.self_attn.q_proj"),
        **linear("layers/attention/key", f"{layer}.self_attn.k_proj", bias=False),
        **linear("layers/attention/value", f"{layer}.self_attn.v_proj"),
        **linear("layers/attention/output", f"{layer}.self_attn.out_proj"),
        **norm("layers/attention_norm", f"{layer}.self_attn_layer_norm"),
        **linear("layers/mlp/up", f"{layer}.fc1"),
        **linear("layers/mlp/down", f"{layer}.fc2"),
        **norm("layers/mlp_norm", f"{layer}.final_layer_norm"),
        **norm("final_norm", "layer_norm"),
    }
    ignored = (r"decoder\..*", r"proj_out\..*", r"projector\..*", r"classifier\..*", r"layer_weights")
    return WeightMap(sources, ("model.", "encoder."), ignored, "encoder.")


def frames(channels: int) -> Layout:
    """A convolution kernel [D, C, 3] over time against our matrix [3·C, D]."""
    return Layout(
        lambda x: x.transpose(2, 1, 0).reshape(TAPS * channels, -1),
        lambda x: x.reshape(TAPS, channels, -1).transpose(2, 1, 0),
    )


WHISPER = Family(
    modality="audio", config=WhisperConfig, read=whisper_config, write=whisper_document, weights=whisper_map
)
