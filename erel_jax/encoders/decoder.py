"""What decoders used as text encoders share: LLaMA, Mistral, Qwen and Gemma differ in a few fields of their configs.

State 0 is the token embedding, states between are the residual stream, and the last state is the residual stream after
the final norm, which is how the published hidden states count. A text is read causally, as the model was trained, or
in both directions (`causal=False`), as embedding models adapted from decoders do; the parameters are the same, so
`dataclasses.replace(config, causal=False)` turns one into the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.encoders.bert import check_pooling
from erel_jax.encoders.encoded import Encoder
from erel_jax.encoders.states import Pool, check_text_inputs
from erel_jax.encoders.tower import Entry, tower
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision, embed_tokens, first_token, last_positions, masked_mean, token_at
from erel_jax.layers.decoder import DecoderBlockConfig, decoder_block, decoder_block_spec
from erel_jax.layers.norm import rms_norm, rms_norm_spec
from erel_jax.layers.rotary import Rotary, rotary_tables
from erel_jax.module import ParamSpec, stack

POOLINGS = ("mean", "last", "cls", "mean_all")
_PLAIN = Rotary()


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The fields that all decoders have; the families give them their defaults.

    Attributes:
        vocabulary: number of token ids.
        width: model width D.
        layers: transformer layers.
        heads: query heads H.
        kv_heads: key and value heads, a divisor of `heads`.
        head_width: channels K of a head, even.
        mlp_width: feed-forward width F.
        max_positions: longest text in tokens.
        activation: name of the gate's activation.
        eps: epsilon of the norms.
        rotary: how fast positions turn queries and keys.
        window: tokens that a causal token sees, itself included, or the distance a token sees on both sides if not
            causal; None for all.
        windowed: which layers have the window, one bool per layer; None for all.
        causal: whether a token sees only itself and what comes before it.
        pooling: "mean" over real tokens, "last" real token, "cls" (first token), or "mean_all" over all slots, padding
            included, as the released IISAN-Versa does: that one depends on how far a batch is padded.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    max_positions: int
    activation: str = "silu"
    eps: float = 1e-6
    rotary: Rotary = _PLAIN
    window: int | None = None
    windowed: tuple[bool, ...] | None = None
    causal: bool = True
    pooling: str = "mean"

    qkv_bias: ClassVar[bool] = False
    qk_norm: ClassVar[bool] = False
    norm_offset: ClassVar[float] = 0.0
    norm_after: ClassVar[bool] = False

    def __post_init__(self):
        check_pooling(self.pooling, POOLINGS, type(self).__name__.removesuffix("Config"))
        if self.window is not None and self.window < 1:
            raise ConfigError(f"got window {self.window}, expected at least 1 token or None.")
        if self.windowed is not None and len(self.windowed) != self.layers:
            raise ConfigError(f"windowed has {len(self.windowed)} entries for {self.layers} layers.")
        if self.windowed is not None and any(self.windowed) and self.window is None:
            raise ConfigError("some layers are windowed, but window is None; give its length in tokens.")
        _ = self.block

    @property
    def block(self) -> DecoderBlockConfig:
        """One layer of the stack."""
        return DecoderBlockConfig(
            width=self.width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_width=self.head_width,
            mlp_width=self.mlp_width,
            activation=self.activation,
            eps=self.eps,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            norm_offset=self.norm_offset,
            norm_after=self.norm_after,
            scale=self.score_scale,
            score_cap=self.score_bound,
        )

    @property
    def windows(self) -> tuple[bool, ...]:
        """Whether each layer has the window."""
        return (self.window is not None,) * self.layers if self.windowed is None else self.windowed

    @property
    def embedding_factor(self) -> float:
        """Factor of the token embeddings."""
        return 1.0

    @property
    def score_scale(self) -> float | None:
        """Factor of the scores, None for 1 / √K."""
        return None

    @property
    def score_bound(self) -> float | None:
        """Bound of the scores, None for none."""
        return None

    @property
    def window_rotary(self) -> Rotary:
        """How fast positions turn in layers with the window."""
        return self.rotary


def decoder(config: DecoderConfig, precision: Precision = FLOAT32, *, remat: bool = False) -> Encoder:
    """A decoder's stack, without its language-model head, as a text encoder.

    Args:
        config: the architecture; the config of a family.
        precision: dtypes of parameters, products and results.
        remat: recompute layers in the backward pass (less memory, about a third more time).

    Returns:
        An `Encoder` of modality "text". Taps are pooled like the embedding; the last state is the normed one. There is
        no dropout: `key` and `train` are accepted and change nothing.

    Numerics: norms, rotary angles, softmax and activations run in float32; except with pooling "mean_all", padding on
    the right never changes a result. On the left it changes rounding alone, because positions turn queries and keys
    against each other, but pooling "cls" reads the first slot.
    """

    def enter(params: Any, inputs: Mapping[str, jax.Array]) -> Entry:
        ids, mask = check_text_inputs(inputs, config.max_positions)
        x = embed_tokens(params["embeddings"]["token"]["table"], ids).astype(precision.accumulate)
        layer, constants = _layer(config, precision, mask)
        return Entry(x * config.embedding_factor, layer, pool_of(config.pooling, mask), mask, constants)

    def top(params: Any, state: jax.Array) -> jax.Array:
        return rms_norm(params["final_norm"], state, config.eps, config.norm_offset)

    return tower(
        modality="text",
        config=config,
        spec={
            "embeddings": {"token": {"table": ParamSpec((config.vocabulary, config.width), ("vocab", "embed"))}},
            "layers": stack(decoder_block_spec(config.block), config.layers),
            "final_norm": rms_norm_spec(config.width, config.norm_offset),
        },
        precision=precision,
        enter=enter,
        head=lambda params, pooled: pooled,
        top=top,
        embedding_width=config.width,
        remat=remat,
        top_is_a_state=True,
    )


def visible_tokens(mask: jax.Array, *, causal: bool, window: int | None) -> jax.Array:
    """Which tokens each token sees.

    Args:
        mask: bool[B, L] of real tokens.
        causal: only itself and what comes before it.
        window: only tokens fewer than this many places behind, or without `causal` at most this many places away,
            which is how the published models count; None for any distance.

    Returns:
        bool[B, 1, L, L].
    """
    places = jnp.arange(mask.shape[1])
    behind = places[:, None] - places[None, :]
    near = behind >= 0 if causal else jnp.ones_like(behind, bool)
    if window is not None:
        near = near & (behind < window if causal else jnp.abs(behind) <= window)
    return mask[:, None, None, :] & near[None, None]


def _layer(config: DecoderConfig, precision: Precision, mask: jax.Array) -> tuple[Any, Any]:
    """The layer of one batch and, where layers differ in their window, which have one."""

    def kind(window: int | None, rotary: Rotary) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        visible = visible_tokens(mask, causal=config.causal, window=window)
        return visible, rotary_tables(rotary, mask.shape[1], config.head_width)

    if len(set(config.windows)) == 1:
        near = config.windows[0]
        one = kind(config.window if near else None, config.window_rotary if near else config.rotary)
        return (lambda params, state: decoder_block(config.block, precision, params, state, *one)), None
    local, everywhere = kind(config.window, config.window_rotary), kind(None, config.rotary)

    def layer(params: Any, state: jax.Array, is_windowed: jax.Array) -> jax.Array:
        chosen = jax.tree.map(lambda a, b: jnp.where(is_windowed, a, b), local, everywhere)
        return decoder_block(config.block, precision, params, state, *chosen)

    return layer, np.asarray(config.windows)


def pool_of(pooling: str, mask: jax.Array) -> Pool:
    """The pooling of that name, one of `POOLINGS`, for texts with mask bool[B, L]: float[B, L, D] → float[B, D]."""
    if pooling == "cls":
        return first_token
    if pooling == "last":
        ends = last_positions(mask)
        return lambda state: token_at(state, ends)
    return lambda state: masked_mean(state, mask if pooling == "mean" else None)
