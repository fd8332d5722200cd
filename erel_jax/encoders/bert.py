"""BERT: the post-norm text encoder of Devlin et al. (2018), also behind MiniLM, E5, BGE and many sentence encoders.

State 0 is the normalized sum of token, position and type-0 embeddings; state k is the output of layer k. One vector
per text comes from the first token (`pooling="cls"`), from BERT's own tanh pooler (`"pooler"`) or from the mean over
real tokens (`"mean"`, as sentence encoders are trained).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.states import block_layer, check_text_inputs
from erel_jax.encoders.tower import Entry, tower
from erel_jax.errors import ConfigError, suggest
from erel_jax.layers import (
    FLOAT32,
    BlockConfig,
    Precision,
    dense,
    embed_tokens,
    first_token,
    layer_norm,
    layer_norm_spec,
    masked_mean,
    stack_spec,
)
from erel_jax.module import ParamSpec, normal, zeros

POOLINGS = ("cls", "pooler", "mean")


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The architecture of a BERT encoder; the defaults are BERT-base-uncased.

    Attributes:
        vocabulary: number of token ids.
        width: model width D.
        layers: transformer layers.
        heads: attention heads H.
        mlp_width: feed-forward width F.
        max_positions: longest text in tokens.
        types: rows of the type (segment) table; single texts use row 0.
        activation: name of the feed-forward activation.
        eps: epsilon of the layer norms.
        pooling: "cls", "pooler" or "mean".
    """

    vocabulary: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    max_positions: int = 512
    types: int = 2
    activation: str = "gelu"
    eps: float = 1e-12
    pooling: str = "cls"

    def __post_init__(self):
        if self.pooling not in POOLINGS:
            raise ConfigError(f"unknown pooling {self.pooling!r} of a BERT encoder. {suggest(self.pooling, POOLINGS)}")
        _ = self.block

    @property
    def block(self) -> BlockConfig:
        """One layer of the stack."""
        return BlockConfig(
            width=self.width,
            heads=self.heads,
            mlp_width=self.mlp_width,
            activation=self.activation,
            norm="post",
            eps=self.eps,
        )

    @classmethod
    def base(cls, pooling: str = "cls") -> "BertConfig":
        """BERT-base-uncased: 108,891,648 parameters, 109,482,240 with the pooler."""
        return cls(pooling=pooling)

    @classmethod
    def mini_lm(cls, pooling: str = "mean") -> "BertConfig":
        """all-MiniLM-L6-v2: 6 layers of width 384."""
        return cls(width=384, layers=6, mlp_width=1536, pooling=pooling)

    @classmethod
    def tiny(cls, pooling: str = "cls") -> "BertConfig":
        """A few thousand parameters, for tests."""
        return cls(vocabulary=64, width=16, layers=3, heads=2, mlp_width=32, max_positions=24, pooling=pooling)


def bert(config: BertConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A BERT encoder as a pure function of its parameters.

    Args:
        config: the architecture.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "text". Taps are pooled like the embedding: the masked mean with `pooling="mean"`,
        the first token otherwise. There is no dropout: `key` and `train` are accepted and change nothing.

    Numerics: norms, softmax and activations run in float32; padding never changes the states of real tokens.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        ids, mask = check_text_inputs(inputs, config.max_positions)

        def pool(state: jax.Array) -> jax.Array:
            return masked_mean(state, mask) if config.pooling == "mean" else first_token(state)

        layer = block_layer(config.block, precision, mask[:, None, None, :])
        return Entry(_embed(config, precision, params["embeddings"], ids), layer, pool, mask)

    def head(params: Any, pooled: jax.Array) -> jax.Array:
        if config.pooling != "pooler":
            return pooled
        return jnp.tanh(dense(pooled, params["pooler"]["kernel"], params["pooler"]["bias"], precision))

    return tower(
        modality="text",
        config=config,
        spec=_spec(config),
        precision=precision,
        enter=enter,
        head=head,
        top=lambda params, state: state,
        embedding_width=config.width,
        remat=remat,
    )


def _spec(config: BertConfig) -> dict[str, Any]:
    width = config.width
    spec: dict[str, Any] = {
        "embeddings": {
            "token": {"table": ParamSpec((config.vocabulary, width), ("vocab", "embed"))},
            "position": {"table": ParamSpec((config.max_positions, width), (None, "embed"))},
            "type": {"table": ParamSpec((config.types, width), (None, "embed"))},
            "norm": layer_norm_spec(width),
        },
        "layers": stack_spec(config.block, config.layers),
    }
    if config.pooling == "pooler":
        spec["pooler"] = {
            "kernel": ParamSpec((width, width), ("embed", None), normal(0.02)),
            "bias": ParamSpec((width,), (None,), zeros),
        }
    return spec


def _embed(config: BertConfig, precision: Precision, params: Any, ids: jax.Array) -> jax.Array:
    """State 0, float[B, L, D]: the normalized sum of three embeddings."""
    wide = precision.accumulate
    positions = params["position"]["table"][: ids.shape[1]].astype(wide)
    summed = embed_tokens(params["token"]["table"], ids).astype(wide)
    summed = summed + params["type"]["table"][0].astype(wide)[None, None, :]
    return layer_norm(params["norm"], summed + positions[None], config.eps)
