"""BERT: the post-norm text encoder of Devlin et al. (2018), also behind MiniLM, E5, BGE and many sentence encoders.

State 0 is the normalized sum of token, position and type-0 embeddings; state k is the output of layer k. One vector
per text comes from the first token (`pooling="cls"`), from BERT's own tanh pooler (`"pooler"`) or from the mean over
real tokens (`"mean"`, as sentence encoders are trained).
"""

from collections.abc import Callable, Mapping
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
    activation,
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
        head_width: width of a head where heads were pruned; None means D / H.
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
    head_width: int | None = None

    def __post_init__(self):
        check_pooling(self.pooling, POOLINGS, "BERT")
        _ = self.block

    @property
    def block(self) -> BlockConfig:
        """One layer of the stack."""
        return post_norm_block(self)

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


def post_norm_block(config: Any) -> BlockConfig:
    """One layer of BERT and its relatives, from a config with the fields of `BertConfig`.

    Raises:
        ConfigError: the activation is unknown, or the heads do not divide the width.
    """
    activation(config.activation)
    return BlockConfig(
        width=config.width,
        heads=config.heads,
        mlp_width=config.mlp_width,
        activation=config.activation,
        norm="post",
        eps=config.eps,
        head_width=getattr(config, "head_width", None),
    )


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

    return text_tower(config, precision, rows=config.max_positions, place=in_order, remat=remat)


def text_tower(
    config: Any,
    precision: Precision,
    *,
    rows: int,
    place: Callable[[jax.Array, jax.Array], jax.Array],
    remat: bool,
) -> Encoder:
    """The encoder that BERT and its relatives share.

    Args:
        config: a config with the fields of `BertConfig`; with `types` 0 there is no type table.
        precision: dtypes of the encoder.
        rows: rows of the position table.
        place: `place(table, mask)` gives the position embeddings from float[rows, D] and bool[B, L], broadcastable to
            [B, L, D].
        remat: recompute layers in the backward pass.

    Returns:
        The encoder as `bert` describes it.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        ids, mask = check_text_inputs(inputs, config.max_positions)
        embeddings = params["embeddings"]
        placed = place(embeddings["position"]["table"], mask).astype(precision.accumulate)

        def pool(state: jax.Array) -> jax.Array:
            return masked_mean(state, mask) if config.pooling == "mean" else first_token(state)

        layer = block_layer(config.block, precision, mask[:, None, None, :])
        return Entry(_embed(config.eps, precision, embeddings, ids, placed), layer, pool, mask)

    def head(params: Any, pooled: jax.Array) -> jax.Array:
        if config.pooling != "pooler":
            return pooled
        return jnp.tanh(dense(pooled, params["pooler"]["kernel"], params["pooler"]["bias"], precision))

    return tower(
        modality="text",
        config=config,
        spec=_spec(config, rows),
        precision=precision,
        enter=enter,
        head=head,
        top=lambda params, state: state,
        embedding_width=config.width,
        remat=remat,
    )


def in_order(table: jax.Array, mask: jax.Array) -> jax.Array:
    """Position embeddings of slots 0, 1, 2 …, whether they hold text or padding: float[1, L, D]."""
    return table[None, : mask.shape[1]]


def check_pooling(pooling: str, choices: tuple[str, ...], name: str) -> None:
    """Refuses a way from tokens to one vector that the encoder called `name` does not have.

    Raises:
        ConfigError: `pooling` is none of `choices`; the message gives the nearest.
    """
    if pooling not in choices:
        raise ConfigError(f"unknown pooling {pooling!r} of a {name} encoder. {suggest(pooling, choices)}")


def _spec(config: Any, rows: int) -> dict[str, Any]:
    width = config.width
    embeddings: dict[str, Any] = {
        "token": {"table": ParamSpec((config.vocabulary, width), ("vocab", "embed"))},
        "position": {"table": ParamSpec((rows, width), (None, "embed"))},
        "norm": layer_norm_spec(width),
    }
    if config.types:
        embeddings["type"] = {"table": ParamSpec((config.types, width), (None, "embed"))}
    spec: dict[str, Any] = {"embeddings": embeddings, "layers": stack_spec(config.block, config.layers)}
    if config.pooling == "pooler":
        spec["pooler"] = {
            "kernel": ParamSpec((width, width), ("embed", None), normal(0.02)),
            "bias": ParamSpec((width,), (None,), zeros),
        }
    return spec


def _embed(eps: float, precision: Precision, params: Any, ids: jax.Array, placed: jax.Array) -> jax.Array:
    """State 0, float[B, L, D]: the normalized sum of the embeddings of token, type 0 (if any) and position."""
    wide = precision.accumulate
    summed = embed_tokens(params["token"]["table"], ids).astype(wide)
    if "type" in params:
        summed = summed + params["type"]["table"][0].astype(wide)[None, None, :]
    return layer_norm(params["norm"], summed + placed, eps)
