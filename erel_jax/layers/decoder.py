"""The block of modern decoders: RMSNorm before each sub-layer, rotary grouped-query attention and a gated MLP.

LLaMA, Mistral, Qwen and Gemma are this block with a few switches: biases on query, key and value, a norm per head on
queries and keys, a second norm after each sub-layer, a cap on the scores.
"""

import dataclasses
from typing import Any

import jax

from erel_jax.errors import ConfigError
from erel_jax.layers.activation import activation
from erel_jax.layers.attention import after_prefix, attend
from erel_jax.layers.dense import dense
from erel_jax.layers.mlp import gated_mlp, gated_mlp_spec
from erel_jax.layers.norm import rms_norm, rms_norm_spec
from erel_jax.layers.precision import Precision
from erel_jax.layers.rotary import rotate
from erel_jax.module import ParamSpec, normal, zeros


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderBlockConfig:
    """One decoder layer.

    Attributes:
        width: model width D.
        heads: query heads H.
        kv_heads: key and value heads; each serves `heads / kv_heads` query heads.
        head_width: channels K of a head; H·K need not be D.
        mlp_width: feed-forward width F.
        activation: name of the gate's activation.
        eps: epsilon of the norms.
        qkv_bias: biases on query, key and value (Qwen 2).
        qk_norm: an RMSNorm over the channels of each query and key head (Qwen 3, Gemma 3).
        norm_offset: added to the scales of all norms; 1 in Gemma, which stores their distance from 1.
        norm_after: a norm after each sub-layer as well, before its residual sum (Gemma).
        scale: factor of the scores, None for 1 / √K.
        score_cap: bound of the scores, None for none (Gemma 2).
    """

    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    activation: str = "silu"
    eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_offset: float = 0.0
    norm_after: bool = False
    scale: float | None = None
    score_cap: float | None = None

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}.")
        if self.head_width % 2:
            raise ConfigError(f"head_width {self.head_width} is odd; rotary positions turn pairs of channels.")
        activation(self.activation)


def decoder_block_spec(config: DecoderBlockConfig) -> dict[str, Any]:
    """Parameters of one layer: `attention`, `attention_norm`, `mlp`, `mlp_norm`, and the norms after where there are.

    The kernels are [D, H·K] for queries, [D, kv_heads·K] for keys and values and [H·K, D] for the output.
    """
    inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width

    def projection(outputs: int) -> dict[str, ParamSpec]:
        kernel = {"kernel": ParamSpec((config.width, outputs), ("embed", "heads"), normal(0.02))}
        return {**kernel, "bias": ParamSpec((outputs,), ("heads",), zeros)} if config.qkv_bias else kernel

    attention: dict[str, Any] = {
        "query": projection(inner),
        "key": projection(shared),
        "value": projection(shared),
        "output": {"kernel": ParamSpec((inner, config.width), ("heads", "embed"), normal(0.02))},
    }
    if config.qk_norm:
        head = ParamSpec((config.head_width,), (None,), rms_norm_spec(1, config.norm_offset)["scale"].init)
        attention |= {"query_norm": {"scale": head}, "key_norm": {"scale": head}}
    names = ["attention_norm", "mlp_norm"]
    names += ["attention_after_norm", "mlp_after_norm"] if config.norm_after else []
    return {
        "attention": attention,
        "mlp": gated_mlp_spec(config.width, config.mlp_width),
        **{name: rms_norm_spec(config.width, config.norm_offset) for name in names},
    }


def decoder_block(
    config: DecoderBlockConfig,
    precision: Precision,
    params: dict[str, Any],
    x: jax.Array,
    mask: jax.Array | None,
    tables: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """One decoder layer.

    Args:
        config: the layer.
        precision: operands of products in `compute`, everything else in `accumulate`.
        params: a tree of `decoder_block_spec`.
        x: float[B, L, D].
        mask: bool broadcastable to [B, H, L, L], True where a token may look, or None.
        tables: cosines and sines of `rotary.rotary_tables`.

    Returns:
        float[B, L, D].
    """

    def normed(name: str, y: jax.Array) -> jax.Array:
        return rms_norm(params[name], y, config.eps, config.norm_offset) if name in params else y

    mixed = _attention(config, precision, params["attention"], normed("attention_norm", x), mask, tables)
    x = x + normed("attention_after_norm", mixed)
    hidden = normed("mlp_norm", x)
    fed = gated_mlp(params["mlp"], hidden, activation_name=config.activation, precision=precision)
    return x + normed("mlp_after_norm", fed)


def _attention(
    config: DecoderBlockConfig,
    precision: Precision,
    params: dict[str, Any],
    x: jax.Array,
    mask: jax.Array | None,
    tables: tuple[jax.Array, jax.Array],
) -> jax.Array:
    batch, length, _ = x.shape
    x = x.astype(precision.compute)  # once: what three projections cast on their own is kept three times

    def project(name: str, heads: int) -> jax.Array:
        y = dense(x, params[name]["kernel"], params[name].get("bias"), precision)
        y = y.reshape(batch, length, heads, config.head_width)
        norm = params.get(f"{name}_norm")
        return y if norm is None else rms_norm(norm, y, config.eps, config.norm_offset)

    query = rotate(project("query", config.heads), tables)
    key = rotate(project("key", config.kv_heads), tables)
    key, value = after_prefix(params, key, project("value", config.kv_heads))
    mixed = attend(query, key, value, mask, precision, scale=config.scale, score_cap=config.score_cap)
    return dense(mixed.reshape(batch, length, -1), params["output"]["kernel"], None, precision)
