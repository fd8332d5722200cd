"""Negatives that look too right to be wrong.

Mined negatives and large batches contain unmarked right answers. A candidate that scores nearly as high as the positive
is more likely one of those than a hard negative; punishing it teaches the wrong thing.
"""

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import gather
from erel_jax.losses.checks import check_hard_negatives, check_pairs
from erel_jax.losses.similarity import products, unit


def false_negatives(
    queries: jax.Array,
    items: jax.Array,
    *,
    ratio: float = 0.95,
    hard_negatives: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Which candidates to leave out because they resemble the query almost as much as its own item does.

    Args:
        queries: float[B, E]; row i belongs to row i of `items`. From the model in training, or from a better teacher.
        items: float[B, E].
        ratio: a candidate above this share of the positive's cosine is left out; in (0, 1]. For a positive of negative
            cosine c the bound is `c - (1 - ratio) |c|`.
        hard_negatives: float[B, H, E] or None, as in `info_nce`.
        axis_name: mesh axis over which the batch is split.

    Returns:
        bool[B, C] for `info_nce(excluded=…)`, columns as there. True also for the own item, which the loss keeps.

    Raises:
        ConfigError: `ratio` is outside (0, 1], or shapes do not fit.

    Crosses devices: normalized items and hard negatives. No gradient flows through the choice. With an untrained model
    everything resembles everything, so begin with a low learning rate, or with `ratio` at 1.

    Reference: the "TopK-PercPos" rule of NV-Retriever (Moreira et al. 2024), 95 %. Relation: group ids know what is a
    copy; this only guesses.
    """
    if not 0 < ratio <= 1:
        raise ConfigError(f"ratio is {ratio}, expected above 0 and at most 1, for example 0.95.")
    check_pairs(queries, items)
    rows, columns = jax.lax.stop_gradient((unit(queries), unit(items)))
    candidates = gather(columns, axis_name)
    if hard_negatives is not None:
        check_hard_negatives(hard_negatives, *rows.shape)
        mined = jax.lax.stop_gradient(unit(hard_negatives)).reshape(-1, rows.shape[1])
        candidates = jnp.concatenate([candidates, gather(mined, axis_name)])
    positive = jnp.sum(rows * columns, axis=1)
    bound = positive - (1 - ratio) * jnp.abs(positive)
    return products(rows, candidates) > bound[:, None]
