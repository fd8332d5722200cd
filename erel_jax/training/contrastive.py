"""The two losses that dual encoders of pictures and texts are trained from nothing with, as published.

CLIP lets all texts of a batch compete for each picture and the other way round; SigLIP asks of each combination alone
whether the two belong together. Either learns its temperature, SigLIP a bias as well; where they start decides whether
the first hundred steps do anything.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from erel_jax.errors import ConfigError, suggest
from erel_jax.losses import INITIAL_LOG_SCALE, chunked_info_nce, chunked_sigmoid_loss
from erel_jax.training.over_devices import Loss, over_devices
from erel_jax.training.sub_batches import in_sub_batches

Kind = Literal["clip", "siglip"]
STARTS: dict[str, dict[str, float]] = {
    "clip": {"log_scale": INITIAL_LOG_SCALE},
    "siglip": {"log_scale": math.log(10.0), "bias": -10.0},
}


def contrastive_start(kind: Kind) -> dict[str, np.ndarray]:
    """What the loss itself learns, at its published start.

    Args:
        kind: "clip" (temperature 0.07) or "siglip" (factor 10, bias -10).

    Returns:
        `log_scale` float32[], and for SigLIP `bias` float32[].

    Raises:
        ConfigError: an unknown kind.

    Reference: Radford et al. 2021; Zhai et al. 2023.
    """
    if kind not in STARTS:
        raise ConfigError(f"unknown contrastive loss {kind!r}. {suggest(kind, STARTS)}")
    return {name: np.asarray(value, np.float32) for name, value in STARTS[kind].items()}


def contrastive_loss(
    kind: Kind,
    encode: Callable[[Any, Any, jax.Array | None], dict[str, jax.Array]],
    *,
    sub_batch: int | None = None,
    mesh: Mesh | None = None,
) -> Loss:
    """The loss function of a dual encoder, for `training.train_step`.

    Args:
        kind: "clip" for the symmetric softmax loss, "siglip" for the sigmoid loss.
        encode: `encode(params, inputs, key)` gives `text` and `image` float[B, E] of B pairs.
        sub_batch: examples encoded at a time on each device (`in_sub_batches`); None encodes all at once.
        mesh: devices over which batches are split, as given to `train_step`; None for one device.

    Returns:
        `loss_fn(params, batch, key)`: `params["head"]` holds `contrastive_start(kind)`, `batch` the `inputs` of
        `encode` and `group` int32[B]; pairs of one group are left out as negatives of each other. Every other pair of
        the batch, on all devices, is a negative.

    Raises:
        ConfigError: an unknown kind; when traced, a batch that devices or sub-batches do not divide.

    Numerics: the loss is computed in tiles in float32, with memory linear in the batch; with sub-batches no logits are
    kept for the backward pass.
    """
    contrastive_start(kind)
    encode_batch = encode if sub_batch is None else in_sub_batches(encode, sub_batch)
    options = {"axis_name": None if mesh is None else "data", **({} if sub_batch is None else {"kept_bytes": 0})}

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        vectors, head, group = encode_batch(params, batch["inputs"], key), params["head"], batch["group"]
        sides = vectors["text"], vectors["image"], head["log_scale"]
        if kind == "clip":
            return chunked_info_nce(*sides, group=group, **options), {}
        return chunked_sigmoid_loss(*sides, head["bias"], group=group, **options), {}

    return loss_fn if mesh is None else over_devices(loss_fn, mesh)
