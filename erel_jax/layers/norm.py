"""Layer normalization and its relatives, in float32."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from erel_jax.module import ParamSpec, ones, zeros

_STATISTICS = "norm statistics"
# Means over a width that a mesh splits would be summed over devices a second time.
_keeping_statistics = partial(
    jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(_STATISTICS)
)


def layer_norm_spec(width: int, *, bias: bool = True) -> dict[str, ParamSpec]:
    """Scale and, where there is one, bias [D] of a LayerNorm."""
    scale = {"scale": ParamSpec((width,), ("embed",), ones)}
    return {**scale, "bias": ParamSpec((width,), ("embed",), zeros)} if bias else scale


def layer_norm(params: dict[str, jax.Array], x: jax.Array, eps: float) -> jax.Array:
    """LayerNorm over the last axis.

    Args:
        params: `scale` and, where there is one, `bias`, float[D].
        x: float[..., D].
        eps: added to the variance; 1e-12 in BERT, 1e-5 in CLIP, 1e-6 in SASRec.

    Returns:
        x's shape and dtype; mean and variance are computed in float32. The backward pass keeps x and these alone.
    """
    return _standardized(params, x, eps)


@partial(_keeping_statistics, static_argnums=2)
def _standardized(params: dict[str, jax.Array], x: jax.Array, eps: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    mean = checkpoint_name(jnp.mean(wide, axis=-1, keepdims=True), _STATISTICS)
    centered = wide - mean
    variance = checkpoint_name(jnp.mean(centered * centered, axis=-1, keepdims=True), _STATISTICS)
    leading = (1,) * (x.ndim - 1)
    scale = params["scale"].astype(jnp.float32).reshape(*leading, -1)
    normed = centered * jax.lax.rsqrt(variance + eps) * scale
    if "bias" in params:
        normed = normed + params["bias"].astype(jnp.float32).reshape(*leading, -1)
    return normed.astype(x.dtype)


def l2_normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """Unit vectors along the last axis, in float32.

    The epsilon is inside the square root, so value and gradient stay finite at zero; a zero vector stays zero.
    """
    wide = x.astype(jnp.float32)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide), axis=-1, keepdims=True))
    wide = wide / jnp.where(largest > 0, largest, 1.0)
    return wide * jax.lax.rsqrt(jnp.sum(wide * wide, axis=-1, keepdims=True) + eps)


def rms_norm_spec(width: int, offset: float = 0.0) -> dict[str, ParamSpec]:
    """The scale [D] of an RMSNorm, drawn so that `offset + scale` starts at 1."""
    return {"scale": ParamSpec((width,), ("embed",), zeros if offset else ones)}


def rms_norm(params: dict[str, jax.Array], x: jax.Array, eps: float, offset: float = 0.0) -> jax.Array:
    """RMSNorm over the last axis (Zhang and Sennrich, 2019): no mean is subtracted and nothing is added.

    Args:
        params: `scale`, float[D].
        x: float[..., D].
        eps: added to the mean square.
        offset: added to the scale; Gemma stores the scale's distance from 1.

    Returns:
        x's shape and dtype; the mean square is computed in float32. The backward pass keeps x and these alone.
    """
    return _scaled_to_one(params, x, eps, offset)


@partial(_keeping_statistics, static_argnums=(2, 3))
def _scaled_to_one(params: dict[str, jax.Array], x: jax.Array, eps: float, offset: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    square = checkpoint_name(jnp.mean(wide * wide, axis=-1, keepdims=True), _STATISTICS)
    root = jax.lax.rsqrt(square + eps)
    scale = offset + params["scale"].astype(jnp.float32)
    return (wide * root * scale.reshape(*(1,) * (x.ndim - 1), -1)).astype(x.dtype)
