"""Choice of batches by learnability: train on what is hard for the learner and easy for a good reference model.

A pair that both find easy teaches nothing; a pair that both find hard is probably noise. The difference of the two
losses is the pair's learnability. `most_learnable` chooses pairs one by one; `select_jointly` (JEST) chooses them
chunk by chunk, each chunk given those already chosen, because in a contrastive batch pairs are each other's negatives.
Both have static shapes and run inside `jit`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from erel_jax.errors import ConfigError
from erel_jax.losses.checks import check_embeddings, check_group
from erel_jax.losses.pair_ids import pair_ids
from erel_jax.losses.similarity import unit
from erel_jax.losses.temperature import clamped_scale

Prepared = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Queries and items of length one, factor on cosines, bias."""


class ScoringModel(NamedTuple):
    """What a model says about the pairs of a super-batch.

    Attributes:
        queries: float[B, E].
        items: float[B, E]; row i belongs to row i of `queries`. Learner and reference may have different widths.
        log_scale: float scalar, log of the factor on cosine similarities.
        bias: float scalar of the sigmoid loss.
    """

    queries: jax.Array
    items: jax.Array
    log_scale: jax.typing.ArrayLike
    bias: jax.typing.ArrayLike


def learnability(learner_losses: jax.Array, reference_losses: jax.Array) -> jax.Array:
    """Learner's minus reference's loss, float32[B], high for pairs worth training on.

    Raises:
        ConfigError: the two have different shapes.
    """
    if jnp.shape(learner_losses) != jnp.shape(reference_losses):
        raise ConfigError(
            f"learner losses have shape {jnp.shape(learner_losses)} and reference losses "
            f"{jnp.shape(reference_losses)}, expected the same: one of each per pair."
        )
    learner, reference = (jnp.asarray(values).astype(jnp.float32) for values in (learner_losses, reference_losses))
    return learner - reference


def most_learnable(scores: jax.Array, count: int, key: jax.Array | None = None) -> jax.Array:
    """Independent choice: the pairs of highest score.

    Args:
        scores: float[B]. Scores that are not finite are never chosen while others are left.
        count: number of pairs to choose, static.
        key: with a key, pairs are drawn without replacement with probability proportional to exp(score).

    Returns:
        int32[count], distinct rows, the best first; equal scores in row order.

    Raises:
        ConfigError: `count` is out of range.
    """
    if jnp.ndim(scores) != 1 or not 1 <= count <= jnp.shape(scores)[0]:
        raise ConfigError(f"got {count} of scores {jnp.shape(scores)}, expected 1 to B of [B].")
    values = jnp.asarray(scores).astype(jnp.float32)
    values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
    if key is not None:
        values = values + jax.random.gumbel(key, values.shape, jnp.float32)
    return jax.lax.top_k(values, count)[1].astype(jnp.int32)


def select_jointly(
    learner: ScoringModel,
    reference: ScoringModel,
    *,
    count: int,
    chunks: int = 16,
    key: jax.Array | None = None,
    group: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Joint choice (JEST) of a batch from a super-batch.

    With `S_ij` the learner's minus the reference's sigmoid loss of query i and item j, the first chunk is chosen by
    `S_jj`, each further one by `S_jj + sum over chosen i of (S_ij + S_ji)`.

    Args:
        learner, reference: embeddings and scales of B pairs under both models.
        count: pairs to choose, static, a multiple of `chunks`; the published share is a fifth of B.
        chunks: static number of steps. One chunk equals `most_learnable` on `S_jj`.
        key: with a key, each chunk is drawn without replacement with probability proportional to the exponential of
            the scores, as published; without one, the best are taken.
        group: int32[B] or None; combinations of different pairs of one group count for nothing. A negative id is a
            group of its own.

    Returns:
        int32[count], distinct rows in the order in which they were chosen.

    Raises:
        ConfigError: the two sides of a model differ in shape, the models in the number of pairs, `count` does not fit,
            or a scale or bias whose value can be seen is no finite number.

    Memory: count / chunks rows of B losses at a time, never B x B. Numerics: float32. NaN in a row makes that row's
    score NaN, which is never chosen while others are left.

    Reference: JEST (Evans et al. 2024).
    """
    batch = _check(learner, "learner")
    if _check(reference, "reference") != batch:
        raise ConfigError(f"learner has {batch} pairs and reference {len(reference.queries)}, expected the same pairs.")
    check_group(group, batch)
    if chunks < 1 or count < chunks or count % chunks or count > batch:
        raise ConfigError(
            f"got count={count} of {batch} pairs in {chunks} chunks, expected a multiple of chunks, at most {batch}."
        )
    size = count // chunks
    models = [_prepared(learner), _prepared(reference)]
    ids = pair_ids(batch, group).group
    own = jax.nn.softplus(-_own_logits(models[0])) - jax.nn.softplus(-_own_logits(models[1]))
    own = jnp.where(jnp.isnan(own), -jnp.inf, own)

    def step(state: tuple[jax.Array, jax.Array], noise: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        conditional, free = state
        chosen = jax.lax.top_k(jnp.where(free, jnp.maximum(conditional + noise, -1e30), -jnp.inf), size)[1]
        return (conditional + _given(chosen, models, ids), free.at[chosen].set(False)), chosen.astype(jnp.int32)

    noise = jnp.zeros((chunks, batch), jnp.float32)
    if key is not None:
        noise = jax.vmap(lambda one: jax.random.gumbel(one, (batch,), jnp.float32))(jax.random.split(key, chunks))
    _, chosen = jax.lax.scan(step, (own, jnp.ones(batch, bool)), noise)
    return chosen.reshape(count)


def _given(chosen: jax.Array, models: list[Prepared], ids: jax.Array) -> jax.Array:
    """Sum over the chosen i of S_ij + S_ji, float32[B]; combinations within a group count for nothing."""
    counted = (ids[chosen][:, None] != ids[None, :]).astype(jnp.float32)
    scores = jnp.zeros(counted.shape, jnp.float32)
    for sign, (queries, items, scale, bias) in zip((1.0, -1.0), models, strict=True):
        for left, right in ((queries, items), (items, queries)):
            logits = scale * jnp.einsum("ce,be->cb", left[chosen], right, precision=jax.lax.Precision.HIGHEST)
            scores = scores + sign * jax.nn.softplus(logits + bias)
    return jnp.nan_to_num(jnp.sum(scores * counted, axis=0), nan=-jnp.inf)


def _check(model: ScoringModel, name: str) -> int:
    check_embeddings(f"{name} queries", model.queries)
    check_embeddings(f"{name} items", model.items)
    if jnp.shape(model.queries) != jnp.shape(model.items):
        raise ConfigError(
            f"{name}: queries have shape {jnp.shape(model.queries)} and items {jnp.shape(model.items)}, expected the "
            "same [B, E]. Both sides must come from one model and speak of the same pairs."
        )
    for part in ("log_scale", "bias"):
        value = getattr(model, part)
        seen = 0.0 if isinstance(value, Tracer) else value
        if jnp.shape(value) != () or not np.isfinite(np.asarray(seen, np.float64)):
            raise ConfigError(
                f"{name}: {part} is {value}, expected a finite number; `losses.log_scale_of` makes a log scale from a "
                "temperature above 0."
            )
    return jnp.shape(model.queries)[0]


def _prepared(model: ScoringModel) -> Prepared:
    scale = clamped_scale(model.log_scale)
    return unit(model.queries), unit(model.items), scale, jnp.asarray(model.bias, jnp.float32)


def _own_logits(model: Prepared) -> jax.Array:
    queries, items, scale, bias = model
    return scale * jnp.sum(queries * items, axis=1) + bias
