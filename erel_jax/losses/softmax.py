"""Softmax over the items of a catalog, all of them or a sample.

The user's state must pick the next item. Over all items this is plain cross-entropy. Over a sample, items that are
sampled more often would be punished more often; subtracting the log of the sampling probability from their logits takes
that bias out.
"""

import math

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.losses.across_devices import mean_over_rows
from erel_jax.losses.checks import check_embeddings
from erel_jax.losses.similarity import EXCLUDED, products


def full_softmax(
    user_states: jax.Array,
    item_embeddings: jax.Array,
    targets: jax.Array,
    *,
    log_popularity: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean cross-entropy of each state picking its target among all items, by dot product.

    Args:
        user_states: float[B, E]. Not normalized.
        item_embeddings: float[N, E], the whole catalog. Not normalized.
        targets: int32[B], row of the catalog. Negative for a padding row, which costs and counts nothing; beyond the
            catalog the loss is NaN.
        log_popularity: float32[N] or None, log share of each item in the training data. Added to the logits while
            training, it explains what popularity alone explains, and the bare scores learn the rest.
        axis_name: mesh axis over which the rows are split; every device has the whole catalog.

    Returns:
        float32 scalar, 0 without a real row; with `axis_name` to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes or dtypes that do not fit.

    Negatives: every other item of the catalog. Duplicates: a catalog that lists an item twice makes it compete with
    itself. Crosses devices: the number of real rows.

    Numerics: logits and softmax float32; B x N of them, see `sampled_softmax` where that is too many.

    Reference: softmax cross-entropy; the correction is the logit adjustment of Menon et al. 2021. Relation:
    `debiased_cross_entropy` has the items of the batch for a catalog.
    """
    check_embeddings("user_states", user_states)
    check_embeddings("item_embeddings", item_embeddings)
    _check_targets(targets, jnp.shape(user_states)[0])
    _check_width("item_embeddings", item_embeddings, user_states)
    real = targets >= 0
    logits = products(_of_real_rows(user_states, real), item_embeddings.astype(jnp.float32))
    if log_popularity is not None:
        if jnp.shape(log_popularity) != logits.shape[1:]:
            raise ConfigError(f"log_popularity has shape {jnp.shape(log_popularity)}, expected {logits.shape[1:]}.")
        logits = logits + log_popularity.astype(jnp.float32)[None, :]
    column = jnp.where(real, targets, 0)[:, None]
    positive = jnp.take_along_axis(logits, column, axis=1, mode="fill", fill_value=jnp.nan)[:, 0]
    return mean_over_rows(jax.nn.logsumexp(logits, axis=1) - positive, real, axis_name)


def sampled_softmax(
    user_states: jax.Array,
    positive_embeddings: jax.Array,
    sampled_embeddings: jax.Array,
    *,
    targets: jax.Array,
    sampled_ids: jax.Array,
    log_popularity: jax.Array | None = None,
    correct_positive: bool = True,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean cross-entropy of each state picking its item among itself and a sample shared by the batch.

    Args:
        user_states: float[B, E]. Not normalized.
        positive_embeddings: float[B, E], embedding of each row's target.
        sampled_embeddings: float[S, E], embeddings of the sampled items.
        targets: int32[B], item number of each target; negative for a padding row, which costs and counts nothing.
        sampled_ids: int32[S], item numbers of the sample. A row's own target among them is left out.
        log_popularity: float32[N] or None, log of the probability with which each item is drawn, by item number,
            subtracted from the logits; None corrects nothing. Finite for every target: smooth the counts. A target
            beyond it makes the loss NaN, and so does a sampled id that is negative or beyond it.
        correct_positive: subtract it from the target's logit too, as is customary; a constant in `log_popularity` then
            changes nothing. False subtracts `log(S) + log_popularity` from the sample alone: the denominator is then an
            unbiased estimate of the full softmax's, and the gradient tends to that of `full_softmax` as S grows.
        axis_name: mesh axis over which the rows are split; each device uses the sample it is given.

    Returns:
        float32 scalar, 0 without a real row; with `axis_name` to be averaged over the axis (`jax.lax.pmean`).

    Raises:
        ConfigError: shapes or dtypes that do not fit.

    Negatives: the sample, without the own target. Duplicates: an item drawn twice counts twice, as the correction
    expects. Crosses devices: the number of real rows.

    Reference: Jean et al. 2015; for retrieval Yi et al. 2019; without correcting the positive Bengio and Senécal 2008
    and Khrylchenko et al. 2025. Relation: over the items of a batch of windows it is `debiased_cross_entropy`.
    """
    check_embeddings("user_states", user_states)
    check_embeddings("sampled_embeddings", sampled_embeddings)
    _check_targets(targets, jnp.shape(user_states)[0])
    _check_width("sampled_embeddings", sampled_embeddings, user_states)
    _check_sample(positive_embeddings, jnp.shape(user_states), sampled_ids, jnp.shape(sampled_embeddings))
    real = targets >= 0
    states = _of_real_rows(user_states, real)
    positive = jnp.sum(states * _of_real_rows(positive_embeddings, real), axis=1)
    sampled = products(states, sampled_embeddings.astype(jnp.float32))
    if log_popularity is not None:
        if jnp.ndim(log_popularity) != 1:
            raise ConfigError(f"log_popularity has shape {jnp.shape(log_popularity)}, expected [N], by item number.")
        log_drawn = jnp.asarray(log_popularity, jnp.float32)
        sampled = sampled - _looked_up(log_drawn, sampled_ids)[None, :]
        if correct_positive:
            positive = positive - jnp.where(real, _looked_up(log_drawn, targets), 0.0)
        else:
            sampled = sampled - math.log(sampled.shape[1])
    sampled = jnp.where(sampled_ids[None, :] == targets[:, None], EXCLUDED, sampled)
    lse = jax.nn.logsumexp(jnp.concatenate([positive[:, None], sampled], axis=1), axis=1)
    return mean_over_rows(lse - positive, real, axis_name)


def _of_real_rows(values: jax.Array, real: jax.Array) -> jax.Array:
    """Values [B, E] as float32 with padding rows at 0: NaN in one would reach the gradient of every item as NaN · 0."""
    return jnp.where(real[:, None], values.astype(jnp.float32), 0.0)


def _looked_up(log_drawn: jax.Array, ids: jax.Array) -> jax.Array:
    """Entries by item number, NaN for a number that is negative or beyond the end."""
    entries = log_drawn.at[jnp.asarray(ids)]
    return entries.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _check_width(name: str, values: jax.Array, states: jax.Array) -> None:
    got, wanted = jnp.shape(values)[1], jnp.shape(states)[1]
    if got != wanted:
        raise ConfigError(f"{name} have width {got} and user_states {wanted}, expected the same for a dot product.")


def _check_targets(targets: jax.Array, rows: int) -> None:
    shape, dtype = jnp.shape(targets), jnp.result_type(targets)
    if shape != (rows,) or not jnp.issubdtype(dtype, jnp.integer):
        raise ConfigError(f"targets are {dtype}{list(shape)}, expected int32[{rows}], one item number per row.")


def _check_sample(positive: jax.Array, wanted: tuple[int, ...], ids: jax.Array, sampled: tuple[int, ...]) -> None:
    if jnp.shape(positive) != wanted:
        raise ConfigError(f"positive_embeddings have shape {jnp.shape(positive)}, expected {wanted}, as user_states.")
    if jnp.shape(ids) != sampled[:1]:
        raise ConfigError(f"sampled_ids have shape {jnp.shape(ids)}, one id per sampled embedding is expected.")
    if not jnp.issubdtype(jnp.result_type(ids), jnp.integer):
        raise ConfigError(f"sampled_ids are {jnp.result_type(ids)}, expected int32{list(sampled[:1])}, item numbers.")
