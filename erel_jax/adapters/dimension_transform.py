"""Bringing states of a wide encoder to the width of a narrow one.

A side tower over several encoders works at one width, the smallest. The *dimension transform* of IISAN-Versa is one
affine map per step, D to D′; over large language models it is most of what trains (81 % for an 8192-wide text encoder
beside ViT-B). Two cheaper forms exist: `low_rank` factors each map, and `shared` uses one map for all steps.
"""

import math
from typing import Any

import jax

from erel_jax.adapters.side_heads import affine_spec
from erel_jax.errors import ConfigError, suggest
from erel_jax.layers import Precision, dense
from erel_jax.module import ParamSpec, uniform

TRANSFORMS = ("full", "low_rank", "shared")


def check_transform(transform: str, rank: int) -> None:
    """Refuses an unknown transform or a rank below 1.

    Raises:
        ConfigError: with the nearest known name.
    """
    if transform not in TRANSFORMS:
        raise ConfigError(f"unknown dimension transform {transform!r}. {suggest(transform, TRANSFORMS)}")
    if rank < 1:
        raise ConfigError(f"got transform_rank={rank}, expected at least 1.")


def transform_spec(width: int, narrow: int, steps: int, transform: str, rank: int) -> dict[str, Any]:
    """Parameters of the maps D → D′ of all steps.

    Args:
        width: D.
        narrow: D′.
        steps: number of steps.
        transform: "full" (`0` … `steps-1`, each kernel [D, D′] and bias), "low_rank" (each `down` [D, R], `up`
            [R, D′] and bias) or "shared" (one kernel and bias).
        rank: R.
    """
    if transform == "shared":
        return affine_spec(width, narrow, sharded=True)
    if transform == "full":
        return {str(k): affine_spec(width, narrow, sharded=True) for k in range(steps)}
    one = {
        "down": ParamSpec((width, rank), ("embed", "rank"), uniform(1 / math.sqrt(width))),
        "up": ParamSpec((rank, narrow), ("rank", None), uniform(1 / math.sqrt(rank))),
        "bias": ParamSpec((narrow,), (None,), uniform(1 / math.sqrt(width))),
    }
    return {str(k): one for k in range(steps)}


def transformed(params: Any, state: jax.Array, step: int, precision: Precision) -> jax.Array:
    """State float[N, D] of a step → float[N, D′] in `precision.accumulate`, by a tree of `transform_spec`."""
    own = params if "kernel" in params else params[str(step)]
    if "down" in own:
        return dense(dense(state, own["down"], None, precision), own["up"], own["bias"], precision)
    return dense(state, own["kernel"], own["bias"], precision)
