"""Token merging as a rewrite of an encoder: the same parameters, fewer tokens from layer to layer."""

import dataclasses

from erel_jax.encoders import ENCODERS, Encoder
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision


def rebuilt(encoder: Encoder, precision: Precision = FLOAT32, **changes: object) -> Encoder:
    """The encoder of the same family with other settings.

    Args:
        encoder: an encoder of a registered family.
        precision: dtypes of the new encoder.
        changes: fields of its config.

    Raises:
        ConfigError: the family is not registered, or its config has no such field.
    """
    family = next((f for f in ENCODERS.values() if f.config is type(encoder.config)), None)
    if family is None:
        raise ConfigError(f"got an encoder with a {type(encoder.config).__name__}, expected one of {sorted(ENCODERS)}.")
    fields = {field.name for field in dataclasses.fields(encoder.config)}
    unknown = sorted(set(changes) - fields)
    if unknown:
        raise ConfigError(f"{type(encoder.config).__name__} has no field {unknown}; it has {sorted(fields)}.")
    return family.build(dataclasses.replace(encoder.config, **changes), precision)


def with_merged_tokens(encoder: Encoder, pairs: int, precision: Precision = FLOAT32) -> Encoder:
    """The encoder with the `pairs` most similar pairs of tokens merged in each layer (ToMe, arXiv 2210.09461).

    Its spec and parameters are those of the encoder: adapters, int8 kernels and trained weights go on as they are. With
    0 pairs it is the encoder itself.

    Args:
        encoder: an image encoder of the ViT family: ViT, DeiT, DINOv2, CLIP, SigLIP.
        pairs: tokens lost per layer, at most half of those left; a twelve-layer encoder of 197 tokens ends with 41 at
            13 and with 101 at 8.
        precision: dtypes of the new encoder.

    Raises:
        ConfigError: the encoder cannot merge tokens, or the number is negative.
    """
    if not hasattr(encoder.config, "merged_tokens"):
        raise ConfigError(
            f"a {type(encoder.config).__name__} cannot merge tokens; image encoders of the ViT family can."
        )
    return rebuilt(encoder, precision, merged_tokens=pairs)
