"""What a family of Hugging Face encoders is to this package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from erel_jax.interop.config_keys import integer, square
from erel_jax.interop.weight_map import WeightMap

RUN_SIZE = "erel_jax_image_size"


@dataclass(frozen=True, kw_only=True)
class Family:
    """How folders of one `model_type` are read and written.

    Attributes:
        modality: "text", "image", "video" or "audio".
        config: the class of the encoder's config.
        read: `read(document, pooling, names)`: the config from the parsed `config.json`; `pooling` is the chosen way
            from tokens to one vector (families without a choice ignore it), `names` are the checkpoint's tensors.
        write: `write(config)`: the inverse, keys of `config.json` beside those that all families share.
        weights: `weights(config)`: the names of the tensors.
        poolings: the choices of `pooling`, empty where there is none.
    """

    modality: str
    config: type
    read: Callable[[Mapping[str, Any], str, list[str]], Any]
    write: Callable[[Any], dict[str, Any]]
    weights: Callable[[Any], WeightMap]
    poolings: tuple[str, ...] = ()


def shared_keys(config: Any) -> dict[str, Any]:
    """The keys of `config.json` that BERT and ViT and their relatives share."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "layer_norm_eps": config.eps,
        "dtype": "float32",
    }


def image_keys(config: Any) -> dict[str, Any]:
    """The keys that say how an image becomes patches."""
    keys = {"image_size": config.image_size, "patch_size": config.patch, "num_channels": config.channels}
    trained = getattr(config, "trained_size", None)
    return keys if trained is None else keys | {"image_size": trained, RUN_SIZE: config.image_size}


def image_sizes(document: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the images and, where it is another, that of the position table.

    `image_size` is that of the positions; with `erel_jax_image_size` beside it, the encoder takes images of that size
    and interpolates its positions.
    """
    trained = square(document, "image_size", 224)
    size = integer(document, RUN_SIZE, trained)
    return {"image_size": size, "trained_size": None if size == trained else trained}
