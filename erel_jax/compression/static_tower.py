"""An asymmetric query tower: static embeddings that look up, average and project.

The document tower encodes the corpus once; queries are then encoded by a table of token vectors, which costs no more
than reading it. The tower starts from the document tower's own token table and is fitted to its embeddings: first the
projection, in closed form, then everything by `static_loss` with any trainer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.encoders import Encoded, Encoder
from erel_jax.encoders.states import check_text_inputs, stored
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import FLOAT32, Precision, dense, embed_tokens, masked_mean
from erel_jax.module import Module, ParamSpec, normal, zeros

PyTree = Any


@dataclass(frozen=True, kw_only=True)
class StaticConfig:
    """A static text tower.

    Attributes:
        vocabulary: number of token ids.
        width: width D of the token vectors.
        embedding_width: width E of the embedding, that of the document tower.
        max_positions: longest text in tokens.
    """

    vocabulary: int
    width: int
    embedding_width: int
    max_positions: int = 512

    def __post_init__(self):
        if min(self.vocabulary, self.width, self.embedding_width, self.max_positions) < 1:
            raise ConfigError(f"got {self}, expected sizes of 1 or more.")


def static_tower(config: StaticConfig, precision: Precision = FLOAT32) -> Encoder:
    """The tower: the mean of the token vectors of the real tokens, projected. It has no layers and one state.

    Args:
        config: its sizes.
        precision: dtypes of parameters, product and result.

    Returns:
        An `Encoder` of modality "text" for `{"ids", "mask"}`; it gives the embedding alone, and refuses taps, tokens
        and hidden states.
    """
    spec = {
        "token": {"table": ParamSpec((config.vocabulary, config.width), ("vocab", "embed"))},
        "projection": {
            "kernel": ParamSpec((config.width, config.embedding_width), ("embed", None), normal(config.width**-0.5)),
            "bias": ParamSpec((config.embedding_width,), (None,), zeros),
        },
    }

    def apply(
        params: PyTree,
        inputs: Mapping[str, jax.Array],
        *,
        taps: Sequence[int] | None = None,
        embedding: bool = True,
        tokens: bool = False,
        hidden_states: bool = False,
        refine: Any = None,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Encoded:
        if taps is not None or tokens or hidden_states or refine is not None or not embedding:
            raise ConfigError("a static tower gives its embedding alone: no taps, tokens or hidden states.")
        ids, mask = check_text_inputs(inputs, config.max_positions)
        mean = masked_mean(embed_tokens(params["token"]["table"], ids), mask)
        projected = dense(mean, params["projection"]["kernel"], params["projection"]["bias"], precision)
        return Encoded(embedding=projected.astype(jnp.float32))

    return Encoder(
        module=Module(stored(spec, precision), apply),
        modality="text",
        config=config,
        layers=0,
        width=config.width,
        embedding_width=config.embedding_width,
    )


def static_from_document(
    table: np.ndarray | jax.Array,
    texts: Mapping[str, np.ndarray],
    targets: np.ndarray,
    *,
    ridge: float = 1e-3,
    max_positions: int = 512,
    precision: Precision = FLOAT32,
) -> tuple[Encoder, PyTree]:
    """A static tower over the document tower's tokenizer, whose projection is fitted by least squares.

    Args:
        table: float[V, D], the document tower's token embeddings (`params["embeddings"]["token"]["table"]`).
        texts: `{"ids": int32[N, L], "mask": bool[N, L]}` of texts like the queries to come; more than D of them.
        targets: float[N, E], the document tower's embeddings of the same texts; they are normalized here.
        ridge: added to the diagonal, as a share of the mean second moment of the averaged token vectors.
        max_positions: longest query in tokens.
        precision: dtypes of the tower.

    Returns:
        (encoder, parameters).

    Raises:
        ConfigError: shapes do not fit, or the ridge is not above 0.
        NonFiniteError: a target or a token vector is not finite.

    Numerics: float64 on the host.
    """
    ids, mask = np.asarray(texts["ids"]), np.asarray(texts["mask"], bool)
    targets, vectors = np.asarray(targets, np.float64), np.asarray(table, np.float64)
    if ids.shape != mask.shape or ids.ndim != 2 or targets.ndim != 2 or len(ids) != len(targets) or not len(ids):
        raise ConfigError(
            f"got ids {ids.shape}, mask {mask.shape} and targets {targets.shape}, expected the same rows."
        )
    if ridge <= 0 or ids.min() < 0 or ids.max() >= len(vectors):
        raise ConfigError(f"got ridge={ridge} and ids up to {ids.max()}, expected above 0 and below {len(vectors)}.")
    if not (np.isfinite(targets).all() and np.isfinite(vectors).all()):
        raise NonFiniteError("targets or token vectors hold NaN or infinity; the projection cannot be fitted.")
    targets = targets / np.maximum(np.linalg.norm(targets, axis=1, keepdims=True), 1e-12)
    means = np.stack(
        [vectors[row[real]].mean(0) if real.any() else 0 * vectors[0] for row, real in zip(ids, mask, strict=True)]
    )
    center, offset = means.mean(0), targets.mean(0)
    moments = (means - center).T @ (means - center) / len(means)
    moments += ridge * max(np.trace(moments) / len(moments), 1e-12) * np.eye(len(moments))
    kernel = np.linalg.solve(moments, (means - center).T @ (targets - offset) / len(means))
    config = StaticConfig(
        vocabulary=len(vectors),
        width=vectors.shape[1],
        embedding_width=targets.shape[1],
        max_positions=max_positions,
    )
    projection = {"kernel": jnp.asarray(kernel, precision.param)}
    projection["bias"] = jnp.asarray(offset - center @ kernel, precision.param)
    params = {"token": {"table": jnp.asarray(table, precision.param)}, "projection": projection}
    return static_tower(config, precision), params


def static_loss(encoder: Encoder, params: PyTree, texts: Mapping[str, jax.Array], targets: jax.Array) -> jax.Array:
    """The mean of 1 - cosine between the tower's embeddings and the document tower's: float32[].

    Args:
        encoder: a static tower.
        params: its parameters; the token table trains as well, which is where most is to gain.
        texts: `{"ids", "mask"}` of B texts.
        targets: float[B, E], the document tower's embeddings.
    """
    found = encoder.module.apply(params, texts).embedding
    wanted = targets.astype(jnp.float32)
    product = jnp.sum(found * wanted, axis=-1)
    squares = jnp.sum(found * found, axis=-1) * jnp.sum(wanted * wanted, axis=-1)
    return jnp.mean(1.0 - product * jax.lax.rsqrt(squares + 1e-12))
