"""Matryoshka training: the first dimensions of an embedding should already be a good embedding."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.losses.checks import is_finite

EMBEDDINGS = (
    "queries",
    "items",
    "hard_negatives",
    "anchors",
    "positives",
    "negatives",
    "user_states",
    "item_embeddings",
    "positive_embeddings",
    "sampled_embeddings",
)
"""Names under which the losses of this package take embeddings."""


def matryoshka(
    loss: Callable[..., jax.Array],
    widths: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    embeddings: Sequence[str] = EMBEDDINGS,
) -> Callable[..., jax.Array]:
    """The weighted mean of a loss over prefixes of the embeddings.

    Args:
        loss: any loss of this package over embeddings, or another function of arrays.
        widths: how many leading dimensions to train, for example (512, 256, 128, 64, 32).
        weights: importance of each width, 1 each by default.
        embeddings: names of the arguments to cut along their last axis; the loss needs not have all of them.

    Returns:
        A function of the same arguments: `sum_k w_k loss(prefixes of width k) / sum_k w_k`. Losses over cosines
        normalize each prefix again, which serving must do too.

    Raises:
        ConfigError: no widths, a width twice, below 1 or no whole number, weights that do not fit, are negative or not
            finite; when called, a width above that of an embedding, or a loss without embeddings of these names.

    Negatives, duplicates, what crosses devices: as in `loss`, at each width. Gathering happens once per width.

    Cost: one more loss per width, without the encoder; small beside the encoder's work.

    Reference: Kusupati et al. 2022 (MRL). Relation: wraps any sibling, also the chunked ones.
    """
    if (
        not isinstance(widths, Sequence)
        or not all(isinstance(width, int | np.integer) and width >= 1 for width in widths)
        or not 0 < len(set(widths)) == len(widths)
    ):
        raise ConfigError(f"got widths {widths}, expected different whole numbers above 0, for example (64, 32).")
    shares = [1.0] * len(widths) if weights is None else np.atleast_1d(np.asarray(weights)).tolist()
    sound = len(shares) == len(widths) and all(is_finite(share) and share >= 0 for share in shares)
    if not (sound and is_finite(sum(shares)) and sum(shares) > 0):
        raise ConfigError(f"got weights {shares} for widths {list(widths)}, expected a finite number from 0 for each.")
    signature = inspect.signature(loss)

    def over_prefixes(*arguments: Any, **named: Any) -> jax.Array:
        given = signature.bind(*arguments, **named)
        cut = [name for name in embeddings if given.arguments.get(name) is not None]
        if not cut:
            raise ConfigError(f"the loss has none of the embeddings {list(embeddings)}; name its own in `embeddings`.")
        narrowest = min(jnp.shape(given.arguments[name])[-1] for name in cut)
        if max(widths) > narrowest:
            raise ConfigError(f"got width {max(widths)} for embeddings of width {narrowest}; take that or less.")
        total = jnp.zeros((), jnp.float32)
        for width, share in zip(widths, shares, strict=True):
            part = signature.bind(*arguments, **named)
            part.arguments.update({name: given.arguments[name][..., :width] for name in cut})
            total = total + share * loss(*part.args, **part.kwargs)
        return total / sum(shares)

    return over_prefixes
