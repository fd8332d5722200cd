"""SASRec, a causal transformer over a user's items, in the post-norm form of the IISAN and MoRec line.

Input is one embedding per slot, whatever encoder made it; output is one user state per slot, and a dot product of a
state with an item embedding scores that item as the next one. Windows are padded on the left, positions are absolute
slots, so the newest item always sits in the last slot and its state is the user.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.layers import (
    FLOAT32,
    Precision,
    attention_spec,
    dropout,
    layer_norm,
    layer_norm_spec,
    mlp_spec,
    self_attention,
)
from erel_jax.layers import mlp as feed_forward
from erel_jax.module import Module, ParamSpec

_XAVIER = jax.nn.initializers.xavier_normal()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SasrecConfig:
    """Sizes of the user encoder; the defaults are the published ones (100,224 parameters).

    Attributes:
        width: E, width of item embeddings and user states.
        max_length: L, number of slots.
        heads: attention heads H.
        blocks: transformer blocks.
        mlp_ratio: feed-forward width as a multiple of `width`.
        dropout: probability of dropout on inputs, attention probabilities and the output of each sub-layer.
        eps: epsilon of the norms.
    """

    width: int = 64
    max_length: int = 10
    heads: int = 2
    blocks: int = 2
    mlp_ratio: int = 4
    dropout: float = 0.1
    eps: float = 1e-6

    def __post_init__(self):
        for name in ("width", "max_length", "heads", "blocks", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise ConfigError(f"got {name}={getattr(self, name)}, expected at least 1.")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}; choose a divisor.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"got dropout={self.dropout}, expected a value in [0, 1).")


def sasrec(config: SasrecConfig | None = None, precision: Precision = FLOAT32) -> Module:
    """A user encoder.

    Args:
        config: Sizes; None takes the published ones.
        precision: Dtypes of the matrix products; norms and softmax are float32.

    Returns:
        A module with `apply(params, embeddings, mask, key=None, train=False)`:
            embeddings: float[B, L, E], one item embedding per slot, left padded; values under the mask do not matter
                to any real slot.
            mask: bool[B, L], True where the slot holds an item.
            key, train: dropout is active only with both.
        It returns user states float32[B, L, E]; the last slot is the user. States of padding slots are finite and
        without meaning.

    Reference: Kang & McAuley 2018, in the variant of GAIR-Lab/IISAN (post-norm, no final norm, no scaling by √E,
    Xavier-normal weights, bias-free attention). There a query without any visible key averages padding; here it gets
    0. Only padding slots are affected.
    """
    config = config or SasrecConfig()
    block = {
        "attention": attention_spec(config.width, bias=False, kernel_init=_XAVIER),
        "attention_norm": layer_norm_spec(config.width),
        "mlp": mlp_spec(config.width, config.mlp_ratio * config.width, kernel_init=_XAVIER),
        "mlp_norm": layer_norm_spec(config.width),
    }
    spec = {
        "position": {"table": ParamSpec((config.max_length, config.width), (None, "embed"), _XAVIER)},
        "input_norm": layer_norm_spec(config.width),
        "blocks": {str(index): block for index in range(config.blocks)},
    }

    def apply(
        params: dict[str, Any],
        embeddings: jax.Array,
        mask: jax.Array,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        if embeddings.shape[-2:] != (config.max_length, config.width):
            raise ConfigError(
                f"got embeddings of shape {list(embeddings.shape)}, expected [B, {config.max_length}, {config.width}]; "
                "pad histories on the left to max_length."
            )
        active = train and key is not None and config.dropout > 0
        draws = 1 + 3 * config.blocks
        keys = [None] * draws if key is None or not active else jax.random.split(key, draws)
        x = embeddings.astype(jnp.float32) + params["position"]["table"].astype(jnp.float32)[None]
        x = dropout(layer_norm(params["input_norm"], x, config.eps), config.dropout, keys[0], active)
        causal = jnp.tril(jnp.ones((config.max_length, config.max_length), bool))
        visible = causal[None, None] & mask.astype(bool)[:, None, None, :]
        for index in range(config.blocks):
            branch = params["blocks"][str(index)]
            x = _block(config, precision, branch, x, visible, keys[1 + 3 * index : 4 + 3 * index], active)
        return x

    return Module(spec, apply)


def _block(
    config: SasrecConfig,
    precision: Precision,
    params: dict[str, Any],
    x: jax.Array,
    visible: jax.Array,
    keys: Any,
    active: bool,
) -> jax.Array:
    """One post-norm block on float32[B, L, E]; `keys` are those of probabilities, attention output and MLP output."""
    attended = self_attention(
        params["attention"], x, visible, heads=config.heads, precision=precision,
        dropout_rate=config.dropout, dropout_key=keys[0] if active else None,
    )  # fmt: skip
    x = layer_norm(params["attention_norm"], x + dropout(attended, config.dropout, keys[1], active), config.eps)
    mapped = feed_forward(params["mlp"], x, activation_name="relu", precision=precision)
    return layer_norm(params["mlp_norm"], x + dropout(mapped, config.dropout, keys[2], active), config.eps)
