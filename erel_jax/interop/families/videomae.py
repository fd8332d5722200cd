"""VideoMAE folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from erel_jax.encoders.videomae import VideoMaeConfig
from erel_jax.interop.config_keys import integer, number, square
from erel_jax.interop.families.family import Family, image_keys, shared_keys
from erel_jax.interop.families.vit import vit_layers
from erel_jax.interop.weight_map import SAME, Layout, Source, WeightMap, norm


def videomae_config(document: Mapping[str, Any], pooling: str, names: list[str]) -> VideoMaeConfig:
    """`VideoMaeConfig` from the keys of a Hugging Face VideoMAE configuration.

    A model that pools by the mean has no norm over its tokens; its classifier's norm over the mean is taken where the
    checkpoint holds it.
    """
    final_norm = "tokens"
    if document.get("use_mean_pooling", True):
        final_norm = "mean" if "fc_norm.weight" in names else "none"
    return VideoMaeConfig(
        image_size=square(document, "image_size", 224),
        patch=square(document, "patch_size", 16),
        frames=integer(document, "num_frames", 16),
        tubelet=integer(document, "tubelet_size", 2),
        channels=integer(document, "num_channels", 3),
        width=integer(document, "hidden_size", 768),
        layers=integer(document, "num_hidden_layers", 12),
        heads=integer(document, "num_attention_heads", 12),
        mlp_width=integer(document, "intermediate_size", 3072),
        activation=document.get("hidden_act", "gelu"),
        eps=number(document, "layer_norm_eps", 1e-12),
        biases=bool(document.get("qv_bias", document.get("qkv_bias", True))),
        final_norm=final_norm,
    )


def videomae_document(config: VideoMaeConfig) -> dict[str, Any]:
    """Keys of `VideoMAEModel`'s `config.json`."""
    return (
        shared_keys(config)
        | image_keys(config)
        | {
            "architectures": ["VideoMAEModel"],
            "model_type": "videomae",
            "num_frames": config.frames,
            "tubelet_size": config.tubelet,
            "qv_bias": config.biases,
            "use_mean_pooling": config.final_norm != "tokens",
        }
    )


def videomae_map(config: VideoMaeConfig) -> WeightMap:
    """Names of `VideoMAEModel`, and of its classifier's norm; decoder, mask token and classifier are ignored."""
    attention = "encoder.layer.{i}.attention.attention"
    sources = {
        "embeddings/patch/kernel": Source(
            "embeddings.patch_embeddings.projection.weight",
            tubelets(config.tubelet, config.patch, config.channels),
        ),
        "embeddings/patch/bias": Source("embeddings.patch_embeddings.projection.bias", SAME),
        **vit_layers(biases=False),
    }
    if config.biases:
        sources["layers/attention/query/bias"] = Source(f"{attention}.q_bias", SAME)
        sources["layers/attention/value/bias"] = Source(f"{attention}.v_bias", SAME)
    ignored = [r"(decoder|encoder_to_decoder|classifier)\..*", r"mask_token", r"position_embeddings"]
    if config.final_norm == "tokens":
        sources |= norm("final_norm", "layernorm")
    if config.final_norm == "mean":
        sources |= norm("mean_norm", "fc_norm")
        return WeightMap(sources, ("videomae.",), tuple(ignored), "videomae.", ("fc_norm.weight", "fc_norm.bias"))
    return WeightMap(sources, ("videomae.",), (*ignored, r"fc_norm\..*"))


def tubelets(frames: int, patch: int, channels: int) -> Layout:
    """A convolution kernel [D, C, frames, patch, patch] against our matrix [frames·patch·patch·C, D]."""

    def to_theirs(x: np.ndarray) -> np.ndarray:
        return x.reshape(frames, patch, patch, channels, -1).transpose(4, 3, 0, 1, 2)

    return Layout(
        lambda x: x.transpose(2, 3, 4, 1, 0).reshape(frames * patch * patch * channels, -1),
        to_theirs,
    )


VIDEOMAE = Family(
    modality="video", config=VideoMaeConfig, read=videomae_config, write=videomae_document, weights=videomae_map
)
