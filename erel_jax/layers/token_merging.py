"""Token merging (ToMe, arXiv 2210.09461): layers that go on with fewer tokens than they began with.

Between attention and feed-forward network the most similar pairs of tokens become one, and every token knows how many
patches it stands for (its *size*). How many pairs is fixed, so all shapes are static; that the number of tokens
shrinks from layer to layer means that such a stack is a loop and no scan.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from erel_jax.layers.norm import l2_normalize, layer_norm
from erel_jax.layers.precision import Precision
from erel_jax.layers.transformer import BlockConfig, attention_branch, feed_forward_branch


class SizedTokens(NamedTuple):
    """The state of a merging stack.

    Attributes:
        tokens: float[B, L, D].
        sizes: float32[B, L], how many of the first state's tokens each one is the mean of; a row's sum never changes.
    """

    tokens: jax.Array
    sizes: jax.Array


def sized(tokens: jax.Array) -> SizedTokens:
    """Tokens float[B, L, D] that stand for themselves."""
    return SizedTokens(tokens, jnp.ones(tokens.shape[:2], jnp.float32))


def size_bias(sizes: jax.Array) -> jax.Array:
    """The score bias of proportional attention, `log size` per key: float32[B, L] to float32[B, 1, 1, L].

    A token of size s then gets the weight that s equal tokens would get together.
    """
    return jnp.log(sizes)[:, None, None, :]


def merging_block(
    config: BlockConfig, precision: Precision, params: dict[str, Any], state: SizedTokens, *, pairs: int, protected: int
) -> SizedTokens:
    """One pre-norm layer that ends with up to `pairs` tokens fewer; with 0 pairs it is `transformer.block`.

    Args:
        config: the layer, whose norm is "pre".
        precision: dtypes of the layer.
        params: a tree of `block_spec`.
        state: tokens float[B, L, D] and their sizes.
        pairs: see `merge_most_similar`; what is alike is the mean over heads of the layer's keys.
        protected: see `merge_most_similar`.
    """
    normed = layer_norm(params["attention_norm"], state.tokens, config.eps)
    mixed, key = attention_branch(config, precision, params, normed, None, size_bias(state.sizes))
    state = SizedTokens(state.tokens + mixed, state.sizes)
    state = merge_most_similar(state, jnp.mean(key, axis=2), pairs=pairs, protected=protected)
    fed = feed_forward_branch(config, precision, params, layer_norm(params["mlp_norm"], state.tokens, config.eps))
    return SizedTokens(state.tokens + fed, state.sizes)


def merge_most_similar(state: SizedTokens, metric: jax.Array, *, pairs: int, protected: int) -> SizedTokens:
    """Averages the most similar tokens, weighted by their sizes.

    Behind the protected tokens, every second token is a giver and the others are receivers. Each giver's partner is
    its most similar receiver by cosine (the first of equals), and the `pairs` givers with the highest cosines are
    averaged into their partners; one receiver may get several.

    Args:
        state: tokens float[B, L, D] and their sizes.
        metric: float[B, L, K], by which tokens are compared.
        pairs: tokens to lose, at most half of those not protected (more are cut to that).
        protected: number of tokens at the front that are never merged (class token, registers).

    Returns:
        `L - pairs` tokens: protected ones, remaining givers in their order, receivers in theirs.

    Numerics: cosines, means and sizes in float32. The choice has no gradient, the means have one.
    """
    length = state.tokens.shape[1]
    pairs = min(pairs, (length - protected) // 2)
    if pairs <= 0:
        return state
    similarity = _similarity(jax.lax.stop_gradient(metric[:, protected:]))
    order = jnp.argsort(-jnp.max(similarity, axis=-1), axis=-1)
    given, kept = order[:, :pairs], jnp.sort(order[:, pairs:], axis=-1)
    partner = jnp.take_along_axis(jnp.argmax(similarity, axis=-1), given, axis=1)
    # One small product with zeros and ones instead of a scatter, which a CPU does row by row.
    receives = partner[:, None, :] == jnp.arange(similarity.shape[2])[None, :, None]

    def moved(x: jax.Array) -> jax.Array:
        givers, receivers = x[:, protected::2], x[:, protected + 1 :: 2]
        gifts = jnp.take_along_axis(givers, given[:, :, None], axis=1)
        sums = receivers + jnp.einsum("bjr,brd->bjd", receives.astype(x.dtype), gifts, precision="highest")
        remaining = jnp.take_along_axis(givers, kept[:, :, None], axis=1)
        return jnp.concatenate([x[:, :protected], remaining, sums], axis=1)

    weights = state.sizes[:, :, None]
    sums = moved(state.tokens.astype(jnp.float32) * weights)
    sizes = moved(weights)
    return SizedTokens((sums / sizes).astype(state.tokens.dtype), sizes[:, :, 0])


def _similarity(metric: jax.Array) -> jax.Array:
    """Cosines of givers and receivers: float[B, L, K] to float32[B, ⌈L/2⌉, ⌊L/2⌋]."""
    unit = l2_normalize(metric.astype(jnp.float32))
    return jnp.einsum("bik,bjk->bij", unit[:, 0::2], unit[:, 1::2])
