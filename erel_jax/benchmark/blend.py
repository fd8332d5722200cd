"""`blend`: a learned mixture of a side network with what needs no training.

A sequence model over content misses what transitions and near-identical titles know, and the reverse. The blend trains
`iisan_cached`, takes each user's scores from it and from every floor, scales each user's scores to a largest value of
1, and learns one weight per score (and one per square root of it, and for popularity) by softmax regression on the
*validation* targets. The test targets are then ranked with those weights. Only a few dozen numbers are learned on top,
so twelve thousand users are plenty, but its validation metric is fitted and not reported.

For each user only candidates count: the best of each part, the target, and random others, which are weighted up to
stand for the rest of the catalog.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.next_item import KS, NextItem
from erel_jax.benchmark.recommendation import fit_method, gallery, learned_record
from erel_jax.benchmark.recommendation_floors import history_scores, make_floors
from erel_jax.benchmark.recommendation_problem import Problem
from erel_jax.data.sequence_splits import EvaluationSplit
from erel_jax.errors import ConfigError, DataError
from erel_jax.metrics.ranking import Ranks, rank_by_scores, ranking_metrics
from erel_jax.training import adam

BASE = "iisan_cached"
BLOCK = 128
BEST, RANDOM, STEPS = 50, 200, 200


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Everything that scores items for a history, as features in [0, 1]."""

    problem: Problem
    model: NextItem
    params: Any
    vectors: jax.Array
    floors: dict[str, Any]

    def scores(self, histories: np.ndarray, seen: np.ndarray) -> list[np.ndarray]:
        """Each part's scores float32[B, N] for a block of users, largest 1; seen items are 0."""
        states = self.model.user_states(self.params, self.vectors, histories)
        logits = np.array(jnp.matmul(states, self.vectors[1:].T))
        logits -= logits.mean(axis=1, keepdims=True)
        parts = [logits, *history_scores(self.floors, histories).values()]
        users, slots = np.nonzero(seen)
        columns = seen[users, slots] - 1
        scaled = []
        for part in parts:
            part = np.maximum(part, 0.0, dtype=np.float32)
            part[users, columns] = 0.0
            part /= np.maximum(part.max(axis=1, keepdims=True), 1e-12)
            scaled.append(part)
        return scaled

    @property
    def popularity(self) -> np.ndarray:
        """Two features of an item alone, float32[N, 2]: its log popularity in [0, 1], and whether it ever trained."""
        counts = self.problem.sequences.train_counts[1:]
        known = np.log1p(counts) / np.log1p(counts.max())
        return np.stack([known, counts > 0], axis=1).astype(np.float32)

    def blended(self, histories: np.ndarray, seen: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The weighted sum of all features, float32[B, N]."""
        total = np.tile(self.popularity @ weights[-2:], (len(histories), 1))
        for part, (plain, root) in zip(self.scores(histories, seen), weights[:-2].reshape(-1, 2), strict=True):
            total += plain * part
            total += root * np.sqrt(part)
        return total


def run_blend(problem: Problem, seed: int, command: str, messenger: Messenger):
    """Trains, learns the weights, evaluates; returns the record and gallery as `recommendation.run_method` does."""
    if problem.sequences.test.candidates is not None:
        raise ConfigError("blend learns its weights on warm items; leave it out with --split cold.")
    model, trained, extract_seconds = fit_method(problem, BASE, seed, messenger)
    record, vectors = learned_record(problem, model, trained, "blend", seed, command, messenger, extract_seconds)
    parts = Parts(problem, model, trained.params, vectors, make_floors(problem, messenger))
    begun = time.perf_counter()
    weights = learn_weights(parts, problem.sequences.valid, seed, messenger)
    weight_seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    ranks = blended_ranks(parts, weights, problem.sequences.test, messenger)
    names = [BASE, *parts.floors]
    shown = ", ".join(f"{name} {weights[2 * i]:+.1f}/{weights[2 * i + 1]:+.1f}" for i, name in enumerate(names))
    record = dataclasses.replace(
        record,
        metrics=ranking_metrics(ranks, KS),
        validation_metrics={},
        train_seconds=(record.train_seconds or 0.0) + weight_seconds,
        evaluate_seconds=time.perf_counter() - begun,
        trainable_parameters=(record.trainable_parameters or 0) + len(weights),
        notes=(
            *record.notes,
            f"weights of score/root by part: {shown}",
            "weights are learned on validation targets, so no validation metric is given",
            "step time, memory and query latency are those of its side network; floors score on the host besides",
        ),
    )
    return [record], {"blend": gallery(problem, model, trained.params, vectors)}


def learn_weights(parts: Parts, split: EvaluationSplit, seed: int, messenger: Messenger) -> np.ndarray:
    """Softmax regression over candidates: float32[F]."""
    generator = np.random.default_rng(seed)
    chosen_features, positions = [], []
    users = np.flatnonzero(~(split.seen == split.targets[:, None]).any(axis=1))
    nearest = min(BEST, parts.problem.items - 1)  # argpartition wants a place inside the catalog
    for start in range(0, len(users), BLOCK):
        block = users[start : start + BLOCK]
        messenger.progress("scoring validation users", start, len(users))
        scores = parts.scores(split.histories[block], split.seen[block])
        best = [np.argpartition(-part, nearest, axis=1)[:, : nearest + 1] for part in scores]
        others = generator.integers(0, parts.problem.items, (len(block), RANDOM))
        candidates = np.concatenate([split.targets[block, None] - 1, *best, others], axis=1)
        values = [np.take_along_axis(part, candidates, axis=1) for part in scores]
        columns = [column for value in values for column in (value, np.sqrt(value))]
        chosen_features.append(np.concatenate([np.stack(columns, axis=-1), parts.popularity[candidates]], axis=-1))
        positions.append(candidates)
    messenger.progress("scoring validation users", len(users), len(users))
    if not len(users):
        raise DataError(
            "blend learns its weights on validation targets, but every one of them occurs earlier in its user's own "
            "history, where the protocol masks it. Leave blend out of --methods."
        )
    features, candidates = np.concatenate(chosen_features), np.concatenate(positions)
    # Column 0 is the target; its other copies would be negatives of itself.
    repeated = candidates[:, 1:] == candidates[:, :1]
    offsets = np.where(np.pad(repeated, ((0, 0), (1, 0))), -1e9, 0.0).astype(np.float32)
    # A random candidate stands for all the items that were not looked at.
    offsets[:, -RANDOM:] += np.log(max(1.0, parts.problem.items / RANDOM))
    return _regress(features, offsets)


def _regress(features: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    x, added = jnp.asarray(features), jnp.asarray(offsets)
    optimizer = adam(0.1)

    def loss(weights: jax.Array) -> jax.Array:
        logits = jnp.einsum("ucf,f->uc", x, weights) + added
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0]) + 1e-4 * jnp.sum(weights * weights)

    @jax.jit
    def step(weights: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
        return weights + updates, state  # type: ignore[operator]

    weights = jnp.ones(features.shape[2], jnp.float32)
    state = optimizer.init(weights)
    for _ in range(STEPS):
        weights, state = step(weights, state)
    return np.asarray(weights)


def blended_ranks(parts: Parts, weights: np.ndarray, split: EvaluationSplit, messenger: Messenger) -> Ranks:
    """Ranks of a split's targets under the weighted sum of all parts."""
    total, ranked = len(split.targets), []
    for start in range(0, total, BLOCK):
        rows = np.arange(start, start + BLOCK) % total
        scores = parts.blended(split.histories[rows], split.seen[rows], weights)
        block = rank_by_scores(
            lambda _, scores=scores: scores,
            split.histories[rows],
            split.targets[rows],
            split.seen[rows],
            block_size=BLOCK,
        )
        ranked.append(block)
        messenger.progress("ranking the blend", min(start + BLOCK, total), total)
    return Ranks(
        favorable=np.concatenate([block.favorable for block in ranked])[:total],
        by_id=np.concatenate([block.by_id for block in ranked])[:total],
    )
