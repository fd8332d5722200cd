"""ModernBERT (Warner et al., 2024): a bidirectional text encoder with rotary positions and gated feed-forward layers.

Two of three layers see a window of tokens on both sides and turn positions faster than the layers that see the whole
text. There are no biases anywhere. The first layer reads the normed embeddings as they are, so the attention norms
begin with layer 1. States count as in decoders: the last one is normed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.encoders.bert import check_pooling
from erel_jax.encoders.decoder import pool_of, visible_tokens
from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.states import check_text_inputs
from erel_jax.encoders.tower import Entry, tower
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision, activation, attend, dense, embed_tokens, layer_norm, layer_norm_spec
from erel_jax.layers.attention import after_prefix
from erel_jax.layers.mlp import fused_gated_mlp, fused_gated_mlp_spec
from erel_jax.layers.rotary import Rotary, rotary_tables, rotate
from erel_jax.module import ParamSpec, normal, stack

POOLINGS = ("cls", "mean", "last")
_GLOBAL, _LOCAL = Rotary(theta=160000.0), Rotary(theta=10000.0)


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig:
    """The architecture of a ModernBERT encoder; the defaults are ModernBERT-base, 149,014,272 parameters as published.

    Attributes:
        vocabulary: number of token ids.
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_width: feed-forward width F, that of the gate and that of what it gates.
        max_positions: longest text in tokens.
        activation: name of the gate's activation.
        eps: epsilon of the layer norms.
        rotary: how fast positions turn in layers without the window.
        local_rotary: how fast they turn in layers with it.
        window: the distance that a token sees on both sides in layers with the window.
        windowed: which layers have the window, one bool per layer.
        pooling: "cls" (first token), "mean" over real tokens or "last" real token.
    """

    vocabulary: int = 50368
    width: int = 768
    layers: int = 22
    heads: int = 12
    mlp_width: int = 1152
    max_positions: int = 8192
    activation: str = "gelu"
    eps: float = 1e-5
    rotary: Rotary = _GLOBAL
    local_rotary: Rotary = _LOCAL
    window: int = 64
    windowed: tuple[bool, ...] = (False, True, True) * 7 + (False,)
    pooling: str = "cls"

    def __post_init__(self):
        check_pooling(self.pooling, POOLINGS, "ModernBERT")
        activation(self.activation)
        if self.width % (2 * self.heads):
            raise ConfigError(
                f"width {self.width} is not a multiple of 2 · heads {self.heads}; rotary positions turn pairs of "
                "channels of a head."
            )
        if self.window < 1 or len(self.windowed) != self.layers:
            raise ConfigError(
                f"got window {self.window} and {len(self.windowed)} entries of windowed for {self.layers} layers; "
                "expected a window of at least 1 token and one entry per layer."
            )

    @classmethod
    def base(cls, pooling: str = "cls") -> "ModernBertConfig":
        """ModernBERT-base: 149,014,272 parameters."""
        return cls(pooling=pooling)

    @classmethod
    def large(cls, pooling: str = "cls") -> "ModernBertConfig":
        """ModernBERT-large: 394,781,696 parameters."""
        windowed = (False, True, True) * 9 + (False,)
        return cls(width=1024, layers=28, heads=16, mlp_width=2624, windowed=windowed, pooling=pooling)

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "ModernBertConfig":
        """A few thousand parameters, for tests."""
        return cls(
            vocabulary=64,
            width=16,
            layers=3,
            heads=2,
            mlp_width=24,
            max_positions=24,
            window=4,
            windowed=(False, True, True),
            pooling=pooling,
        )


def modernbert(config: ModernBertConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A ModernBERT encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "text". Taps are pooled like the embedding; the last state is the normed one. There is
        no dropout: `key` and `train` are accepted and change nothing.

    Numerics: norms, rotary angles, softmax and activations run in float32; padding never changes a result.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        ids, mask = check_text_inputs(inputs, config.max_positions)
        x = embed_tokens(params["embeddings"]["token"]["table"], ids).astype(precision.accumulate)
        x = layer_norm(params["embeddings"]["norm"], x, config.eps)

        def sight(window: int | None, rotary: Rotary) -> Any:
            visible = visible_tokens(mask, causal=False, window=window)
            return visible, rotary_tables(rotary, ids.shape[1], config.width // config.heads)

        near, everywhere = sight(config.window, config.local_rotary), sight(None, config.rotary)

        def layer(one: Any, state: jax.Array, kind: Any) -> jax.Array:
            seen = jax.tree.map(lambda a, b: jnp.where(kind["windowed"], a, b), near, everywhere)
            normed = jnp.where(kind["normed"], layer_norm(kind["norm"], state, config.eps), state)
            return _block(config, precision, one, state, normed, *seen)

        return Entry(x, layer, pool_of(config.pooling, mask), mask, _kinds(config, params["attention_norm"]))

    return tower(
        modality="text",
        config=config,
        spec=_spec(config),
        precision=precision,
        enter=enter,
        head=lambda params, pooled: pooled,
        top=lambda params, state: layer_norm(params["final_norm"], state, config.eps),
        embedding_width=config.width,
        remat=remat,
        top_is_a_state=True,
    )


def _kinds(config: ModernBertConfig, norm: dict[str, jax.Array]) -> dict[str, Any]:
    """What differs between layers; the first has no attention norm, so that the scale given to it is never used."""
    scale = norm["scale"]
    return {
        "windowed": np.asarray(config.windowed),
        "normed": np.arange(config.layers) > 0,
        "norm": {"scale": jnp.concatenate([jnp.ones((1, config.width), scale.dtype), scale])},
    }


def _block(
    config: ModernBertConfig,
    precision: Precision,
    params: Any,
    x: jax.Array,
    normed: jax.Array,
    mask: jax.Array,
    tables: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """One layer on float[B, L, D], whose attention reads `normed`."""
    batch, length, width = x.shape
    projected = dense(normed, params["attention"]["qkv"]["kernel"], None, precision)
    heads = (batch, length, config.heads, width // config.heads)
    query, key, value = (y.reshape(heads) for y in jnp.split(projected, 3, axis=-1))
    key, value = after_prefix(params["attention"], rotate(key, tables), value)
    mixed = attend(rotate(query, tables), key, value, mask, precision).reshape(batch, length, width)
    x = x + dense(mixed, params["attention"]["output"]["kernel"], None, precision)
    hidden = layer_norm(params["mlp_norm"], x, config.eps)
    return x + fused_gated_mlp(params["mlp"], hidden, activation_name=config.activation, precision=precision)


def _spec(config: ModernBertConfig) -> dict[str, Any]:
    width = config.width

    def kernel(outputs: int, axes: tuple[str, str]) -> dict[str, ParamSpec]:
        return {"kernel": ParamSpec((width, outputs), axes, normal(0.02))}

    layer = {
        "attention": {
            "qkv": kernel(3 * width, ("embed", "heads")),
            "output": kernel(width, ("heads", "embed")),
        },
        "mlp": fused_gated_mlp_spec(width, config.mlp_width),
        "mlp_norm": layer_norm_spec(width, bias=False),
    }
    return {
        "embeddings": {
            "token": {"table": ParamSpec((config.vocabulary, width), ("vocab", "embed"))},
            "norm": layer_norm_spec(width, bias=False),
        },
        "layers": stack(layer, config.layers),
        "attention_norm": stack(layer_norm_spec(width, bias=False), config.layers - 1),
        "final_norm": layer_norm_spec(width, bias=False),
    }
