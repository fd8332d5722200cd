"""GPT-2 (Radford et al., 2019) as a text encoder: learned positions, pre-norm layers, one kernel for all projections.

Query, key and value come from one fused kernel, as its checkpoints store them, so an adapter on it acts on all three.
States count as in other decoders: the last one is normed. A text is read causally or, with `causal=False`, in both
directions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.bert import check_pooling
from erel_jax.encoders.decoder import POOLINGS, pool_of, visible_tokens
from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.states import check_text_inputs
from erel_jax.encoders.tower import Entry, tower
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision, activation, attend, dense, embed_tokens, layer_norm, layer_norm_spec
from erel_jax.layers.attention import after_prefix
from erel_jax.layers.mlp import mlp, mlp_spec
from erel_jax.module import ParamSpec, normal, stack, zeros


@dataclass(frozen=True, kw_only=True)
class Gpt2Config:
    """The architecture of a GPT-2 encoder; the defaults are the smallest, 124,439,808 parameters as published.

    Attributes:
        vocabulary: number of token ids.
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_width: feed-forward width F.
        max_positions: longest text in tokens.
        activation: name of the feed-forward activation.
        eps: epsilon of the layer norms.
        causal: whether a token sees only itself and what comes before it.
        pooling: as in `DecoderConfig`.
    """

    vocabulary: int = 50257
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    max_positions: int = 1024
    activation: str = "gelu_new"
    eps: float = 1e-5
    causal: bool = True
    pooling: str = "mean"

    def __post_init__(self):
        check_pooling(self.pooling, POOLINGS, "GPT-2")
        activation(self.activation)
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}.")

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "Gpt2Config":
        """A few thousand parameters, for tests; every token sees every other."""
        return cls(
            vocabulary=64,
            width=16,
            layers=3,
            heads=2,
            mlp_width=48,
            max_positions=24,
            causal=False,
            pooling=pooling,
        )


def gpt2(config: Gpt2Config, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """GPT-2's stack, without its language-model head, as a text encoder; results as in `decoder`.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass.

    Returns:
        An `Encoder` of modality "text".
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        ids, mask = check_text_inputs(inputs, config.max_positions)
        visible = visible_tokens(mask, causal=config.causal, window=None)
        embeddings = params["embeddings"]
        x = embed_tokens(embeddings["token"]["table"], ids).astype(precision.accumulate)
        x = x + embeddings["position"]["table"][None, : ids.shape[1]].astype(precision.accumulate)

        def layer(one: Any, state: jax.Array) -> jax.Array:
            return _block(config, precision, one, state, visible)

        return Entry(x, layer, pool_of(config.pooling, mask), mask)

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


def _block(config: Gpt2Config, precision: Precision, params: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
    batch, length, width = x.shape
    fused, output = params["attention"]["qkv"], params["attention"]["output"]
    projected = dense(layer_norm(params["attention_norm"], x, config.eps), fused["kernel"], fused["bias"], precision)
    heads = (batch, length, config.heads, width // config.heads)
    query, key, value = (y.reshape(heads) for y in jnp.split(projected, 3, axis=-1))
    key, value = after_prefix(params["attention"], key, value)
    mixed = attend(query, key, value, mask, precision).reshape(batch, length, width)
    x = x + dense(mixed, output["kernel"], output["bias"], precision)
    hidden = layer_norm(params["mlp_norm"], x, config.eps)
    return x + mlp(params["mlp"], hidden, activation_name=config.activation, precision=precision)


def _spec(config: Gpt2Config) -> dict[str, Any]:
    width = config.width

    def linear(outputs: int, axes: tuple[str, str]) -> dict[str, ParamSpec]:
        return {
            "kernel": ParamSpec((width, outputs), axes, normal(0.02)),
            "bias": ParamSpec((outputs,), axes[1:], zeros),
        }

    layer = {
        "attention": {"qkv": linear(3 * width, ("embed", "heads")), "output": linear(width, ("heads", "embed"))},
        "attention_norm": layer_norm_spec(width),
        "mlp": mlp_spec(width, config.mlp_width),
        "mlp_norm": layer_norm_spec(width),
    }
    return {
        "embeddings": {
            "token": {"table": ParamSpec((config.vocabulary, width), ("vocab", "embed"))},
            "position": {"table": ParamSpec((config.max_positions, width), (None, "embed"), normal(0.01))},
        },
        "layers": stack(layer, config.layers),
        "final_norm": layer_norm_spec(width),
    }
