"""Cleaning by small loss: measure the loss of every pair, fit a mixture, keep the pairs that look clean.

A model must not judge pairs that it has memorized: measure after a short warm-up, or let two models judge each other's
pairs (`co_divide`).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, DataError
from erel_jax.losses import INITIAL_LOG_SCALE
from erel_jax.losses.similarity import EXCLUDED, products, unit
from erel_jax.selection.blocks import Embeddings, blocks_of
from erel_jax.selection.fingerprint import score_fingerprint
from erel_jax.selection.ids import row_groups
from erel_jax.selection.mixtures import Kind, fit_mixture, low_posterior, unit_interval
from erel_jax.selection.outcome import KEPT, Outcome, decide


def pair_losses(
    queries: Embeddings,
    items: Embeddings,
    *,
    log_scale: float = INITIAL_LOG_SCALE,
    group: np.ndarray | None = None,
    rows: int = 512,
) -> np.ndarray:
    """Symmetric InfoNCE of each pair against the pairs of its block.

    Args:
        queries: float[N, E] or stream of blocks.
        items: float[N, E] or stream of blocks; row i belongs to row i of `queries`.
        log_scale: log of the factor on cosine similarities; `losses.log_scale_of` makes it from a temperature.
        group: int[N] or None; pairs of equal numbers are no negatives of each other. A negative number is a missing
            one, and its pair a group of its own. A pair whose whole block is one group has loss 0.
        rows: pairs of a block. The last block is filled up with the rows before it, so that every pair has as many
            others; with fewer rows than that in all, the block is as large as the data.

    Returns:
        float32[N]. Shuffle the rows first if neighbors are alike.

    Raises:
        ConfigError: the widths differ, there are fewer than 2 rows, `log_scale` is not finite, or the groups are no
            whole numbers.
        DataError: the numbers of rows or of groups differ.
        NonFiniteError: rows hold NaN or infinity.
    """
    if not math.isfinite(log_scale):
        raise ConfigError(
            f"log_scale is {log_scale}, expected a finite number, the log of 1 / temperature; `losses.log_scale_of` "
            "makes it from a temperature above 0."
        )
    groups = None if group is None else row_groups("group ids", group)
    found: list[np.ndarray] = []
    others = blocks_of(items, "items", rows=rows)
    before: tuple[np.ndarray, np.ndarray] | None = None
    count = 0
    for start, left in blocks_of(queries, "queries", rows=rows):
        _, right = next(others, (0, left[:0]))
        if left.shape[1] != right.shape[1]:
            raise ConfigError(f"queries have width {left.shape[1]} and items {right.shape[1]}, expected the same.")
        if len(left) != len(right):
            raise DataError(f"queries and items end after different numbers of rows, near row {start + len(right)}.")
        missing = rows - len(left) if before is not None else 0
        if before is not None and missing:
            left, right = (
                np.concatenate([old[len(old) - missing :], new]) for old, new in zip(before, (left, right), strict=True)
            )
        if len(left) < 2:
            raise ConfigError("got blocks of one pair, expected at least 2: a pair needs others to compare with.")
        first = start - missing
        ids = np.arange(len(left), dtype=np.int32) if groups is None else groups[first : first + len(left)]
        if groups is not None and len(ids) != len(left):
            raise DataError(f"there are {len(groups)} group ids and more pairs, expected one id per pair.")
        found.append(np.asarray(_block_losses(left, right, ids, np.float32(log_scale)))[missing:])
        before, count = (left, right), start + len(left) - missing
    if next(others, None) is not None or (groups is not None and len(groups) != count):
        raise DataError(f"there are {count} queries and more items or group ids, expected as many of each.")
    return np.concatenate(found)


def clean_probability(losses: np.ndarray | jax.Array, kind: Kind = "gaussian") -> np.ndarray:
    """Probability that each pair is clean: the posterior of the low component of a mixture over scaled losses.

    Args:
        losses: float[N], one per pair, low for pairs that a model finds easy.
        kind: "gaussian" or "beta".

    Returns:
        float32[N], never rising with the loss; the weight of the pair's own caption in `soft_targets`.

    Raises:
        ConfigError, DataError, NonFiniteError: as `unit_interval` and `fit_mixture`.
    """
    values = unit_interval(losses)
    return low_posterior(fit_mixture(values, kind), values)


def filter_by_loss(
    losses: np.ndarray | jax.Array, *, kind: Kind = "gaussian", threshold: float = 0.5, least_share: float = 0.01
) -> Outcome:
    """Keeps the pairs that a mixture over the losses calls clean.

    Args:
        losses: float[N].
        kind: "gaussian" or "beta".
        threshold: clean probability above which a pair is kept.
        least_share: if no pair is at or below the threshold, this share of pairs with the largest losses is removed.

    Returns:
        The outcome, reason `mismatched`; its settings hold the fitted mixture.

    Raises:
        ConfigError, DataError, NonFiniteError: as `clean_probability`; DataError too if nothing would be kept.

    Reference: NCR (Huang et al. 2021), threshold and least share included.
    """
    if not 0 <= threshold < 1 or not 0 <= least_share < 1:
        raise ConfigError(f"got threshold={threshold} and least_share={least_share}, expected 0 or more and below 1.")
    values = unit_interval(losses)
    mixture = fit_mixture(values, kind)
    mismatched = low_posterior(mixture, values) <= threshold
    if not mismatched.any():
        mismatched[np.argsort(-values, kind="stable")[: round(least_share * len(values))]] = True
    settings = {
        "kind": kind,
        "threshold": threshold,
        "least_share": least_share,
        "weights": mixture.weights.tolist(),
        "parameters": mixture.parameters.tolist(),
    }
    codes = np.where(mismatched, 0, KEPT)
    return decide("small_loss", settings, score_fingerprint(np.asarray(losses)), codes, ("mismatched",))


def co_divide(
    first_losses: np.ndarray | jax.Array, second_losses: np.ndarray | jax.Array, *, kind: Kind = "gaussian"
) -> tuple[Outcome, Outcome]:
    """Splits for two peer models, each from the losses of the other one, so that no model confirms its own errors.

    Args:
        first_losses, second_losses: float[N], losses of the same pairs under the first and the second model.
        kind: "gaussian" or "beta".

    Returns:
        (what the first model trains on, what the second one trains on).

    Raises:
        DataError: the numbers of losses differ; else as `filter_by_loss`.
    """
    if len(first_losses) != len(second_losses):
        raise DataError(f"got {len(first_losses)} and {len(second_losses)} losses, expected one per pair from each.")
    return filter_by_loss(second_losses, kind=kind), filter_by_loss(first_losses, kind=kind)


@jax.jit
def _block_losses(queries: jax.Array, items: jax.Array, group: jax.Array, log_scale: jax.Array) -> jax.Array:
    logits = products(unit(queries), unit(items)) * jnp.exp(log_scale)
    same = (group[:, None] == group[None, :]) & jnp.logical_not(jnp.eye(len(group), dtype=bool))
    masked = jnp.where(same, EXCLUDED, logits)
    both = jax.nn.logsumexp(masked, axis=1) + jax.nn.logsumexp(masked, axis=0)
    return 0.5 * both - jnp.diagonal(logits)
