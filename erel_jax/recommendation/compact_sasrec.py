"""SASRec on real positions alone: the training form of `sasrec`.

More than half of the slots of left-padded windows are padding, and everything but attention treats slots one by one.
Here those layers run on the real positions only, gathered into rows; attention alone spreads rows out to windows and
gathers the result back. States, gradients and parameters are those of `sasrec`; the work shrinks with the padding.
"""

from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers import FLOAT32, Precision, attend, dense, dropout, layer_norm
from erel_jax.layers import mlp as feed_forward
from erel_jax.module import Module
from erel_jax.recommendation.sasrec import SasrecConfig, sasrec


def compact_sasrec(config: SasrecConfig | None = None, precision: Precision = FLOAT32) -> Module:
    """The user encoder of `sasrec`, computed on rows.

    Args:
        config: Sizes; None takes the published ones. Parameters fit both forms.
        precision: Dtypes of the matrix products; norms and softmax are float32.

    Returns:
        A module with `apply(params, embeddings, rows, slot_row, key=None, train=False)`:
            embeddings: float[R, E], item embedding of each row.
            rows: int32[R], place of each row in the flattened `[B * L]` slots; unused rows hold any valid place.
            slot_row: int32[B, L], row of each slot, -1 where the slot is padding.
            key, train: dropout is active only with both.
        It returns user states float32[R, E]; unused rows are finite and without meaning.
        `data.sequence_batches` builds `rows` and `slot_row`.
    """
    config = config or SasrecConfig()

    def apply(
        params: dict[str, Any],
        embeddings: jax.Array,
        rows: jax.Array,
        slot_row: jax.Array,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        active = train and key is not None and config.dropout > 0
        draws = 1 + 3 * config.blocks
        keys = [None] * draws if key is None or not active else jax.random.split(key, draws)
        length = slot_row.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))
        visible = causal[None, None] & (slot_row >= 0)[:, None, None, :]
        # Padding slots read row 0; no real query sees them.
        source = jnp.maximum(slot_row, 0)
        x = embeddings.astype(jnp.float32) + params["position"]["table"].astype(jnp.float32)[rows % length]
        x = dropout(layer_norm(params["input_norm"], x, config.eps), config.dropout, keys[0], active)
        for index in range(config.blocks):
            branch = params["blocks"][str(index)]
            own = keys[1 + 3 * index : 4 + 3 * index]
            attended = _attention(config, precision, branch["attention"], x, rows, source, visible, own[0])
            x = layer_norm(branch["attention_norm"], x + dropout(attended, config.dropout, own[1], active), config.eps)
            mapped = feed_forward(branch["mlp"], x, activation_name="relu", precision=precision)
            x = layer_norm(branch["mlp_norm"], x + dropout(mapped, config.dropout, own[2], active), config.eps)
        return x

    return Module(sasrec(config, precision).spec, apply)


def _attention(
    config: SasrecConfig,
    precision: Precision,
    params: dict[str, Any],
    x: jax.Array,
    rows: jax.Array,
    source: jax.Array,
    visible: jax.Array,
    key: Any,
) -> jax.Array:
    """Projections on rows float32[R, E], attention on windows [B, L], and back to rows."""

    def spread(name: str) -> jax.Array:
        projected = dense(x, params[name]["kernel"], None, precision)[source]
        return projected.reshape(*source.shape, config.heads, -1)

    mixed = attend(
        spread("query"), spread("key"), spread("value"), visible, precision,
        dropout_rate=config.dropout, dropout_key=key,
    )  # fmt: skip
    return dense(mixed.reshape(-1, x.shape[-1])[rows], params["output"]["kernel"], None, precision)
