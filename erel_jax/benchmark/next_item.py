"""The next-item model of a recommendation job: adapted items, SASRec users, debiased loss, full-ranking evaluation.

    item inputs or stored states ─ adapted.module ─► item vectors ─┬─► windows ─ sasrec ─► user states
                                                                   └─► catalog          └─► dot products
Parameters: `{"towers": …, "head": …, "user": …, "catalog": …}`; `catalog` holds the stored states of cached methods
and trains nothing. Where the states do not fit the device there is no catalog, and a `Feed` brings each batch its rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.adapters.adapted import Adapted
from erel_jax.benchmark.recommendation_problem import Problem
from erel_jax.data.pipeline import eval_batches
from erel_jax.data.sequence_batches import SequenceBatch, SequenceBatches
from erel_jax.data.sequence_splits import EvaluationSplit
from erel_jax.errors import ConfigError
from erel_jax.layers import Precision
from erel_jax.losses import debiased_cross_entropy
from erel_jax.metrics.ranking import Ranks, rank_by_embeddings, ranking_metrics
from erel_jax.module import Module
from erel_jax.recommendation.compact_sasrec import compact_sasrec
from erel_jax.recommendation.sasrec import SasrecConfig, sasrec
from erel_jax.sharding import Step, compile_step

KS = (5, 10, 20)
USERS = 2048
ITEMS_CACHED, ITEMS_LIVE = 2048, 256


class Feed(Protocol):
    """Stored states by item numbers, for what is not resident; see `benchmark.state_feed`."""

    def __call__(self, rows: np.ndarray) -> Any:
        """Rows of every modality's states."""
        ...

    def prefetch(self, rows: np.ndarray) -> None:
        """Announces rows that will soon be asked for."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NextItem:
    """The pieces of one model, built once.

    Attributes:
        problem: data and towers.
        adapted: how items are encoded.
        user: the user encoder over whole windows, for evaluation.
        user_rows: the same encoder over real positions alone, for training.
        precision: dtypes of the loss's products.
        items_step, users_step: compiled encoders of a chunk of items and of users.
        feed: where stored states come from that are not in `params["catalog"]`.
    """

    problem: Problem
    adapted: Adapted
    user: Module
    user_rows: Module
    precision: Precision
    items_step: Step
    users_step: Step
    feed: Feed | None = None

    def loss(self, params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """In-batch debiased cross-entropy of one `Batches` batch; see `training.train_step`.

        An item of which no modality is known has no vector: it is neither target nor negative.
        """
        sequence: SequenceBatch = batch["sequence"]
        item_key, user_key = jax.random.split(key)
        inputs = batch["inputs"] if "inputs" in batch else rows_of(params["catalog"]["states"], sequence.unique_items)
        vectors = self.adapted.module.apply(params, inputs, batch["presence"], key=item_key, train=True)
        states = self.user_rows.apply(
            params["user"], vectors[sequence.row_input], sequence.rows, sequence.slot_row, key=user_key, train=True
        )
        known = jnp.asarray(batch["presence"]).any(axis=1)
        loss = debiased_cross_entropy(
            states,
            vectors,
            row_user=sequence.row_user,
            row_positive=jnp.where(known[sequence.row_positive], sequence.row_positive, 0),  # 0 marks a row to skip
            windows=sequence.windows,
            log_popularity=batch["log_popularity"],
            multiplicity=jnp.where(known, sequence.multiplicity, 0),
            compute_dtype=self.precision.compute,
        )
        return loss, {}

    def item_vectors(self, params: Any, progress: Callable[[int, int], None] | None = None) -> jax.Array:
        """float32[N + 1, E] of the whole catalog, padding included."""
        total = self.problem.items + 1
        size = min(ITEMS_CACHED if self.adapted.method.cached else ITEMS_LIVE, total)
        model, parts = {k: v for k, v in params.items() if k != "catalog"}, []
        for rows, mask in eval_batches(total, size):
            inputs = self.inputs(params, rows)
            parts.append(self.items_step(model, inputs, self.problem.presence[rows])[: int(mask.sum())])
            if progress is not None:
                progress(min(len(parts) * size, total), total)
        return jnp.concatenate(parts)

    def inputs(self, params: Any, rows: np.ndarray) -> Any:
        """What the item encoder reads for item numbers `rows`: stored states, or live inputs."""
        if self.feed is not None:
            return self.feed(rows)
        if self.adapted.method.cached:
            return rows_of(params["catalog"]["states"], jnp.asarray(rows))
        return {name: self.problem.inputs(name, rows) for name in self.problem.towers}

    def user_states(self, params: Any, vectors: jax.Array, histories: np.ndarray) -> jax.Array:
        """float32[U, E], the state of each user's last slot."""
        size, parts = min(USERS, len(histories)), []
        for rows, mask in eval_batches(len(histories), size):
            parts.append(self.users_step(params["user"], vectors, histories[rows])[: int(mask.sum())])
        return jnp.concatenate(parts)

    def ranks(self, params: Any, vectors: jax.Array, split: EvaluationSplit) -> Ranks:
        """Ranks of the split's targets over the whole catalog, or among the split's candidates."""
        states = self.user_states(params, vectors, split.histories)
        if split.candidates is None:
            return rank_by_embeddings(states, vectors[1:], split.targets, split.seen)
        targets, seen = among(split)
        return rank_by_embeddings(states, vectors[split.candidates], targets, seen)

    def metrics(self, params: Any, vectors: jax.Array, split: EvaluationSplit) -> dict[str, float]:
        """HR@k, NDCG@k and MRR of a split."""
        return ranking_metrics(self.ranks(params, vectors, split), KS)


def among(split: EvaluationSplit) -> tuple[np.ndarray, np.ndarray]:
    """Targets and seen items as places 1..C among a split's candidates; seen items that are no candidates are 0."""
    assert split.candidates is not None
    places = np.searchsorted(split.candidates, split.seen)
    known = split.candidates[np.minimum(places, len(split.candidates) - 1)] == split.seen
    targets = np.searchsorted(split.candidates, split.targets) + 1
    return targets.astype(np.int32), np.where(known, places + 1, 0).astype(np.int32)


def next_item(problem: Problem, adapted: Adapted, config: SasrecConfig, precision: Precision) -> NextItem:
    """Puts a model together and makes its two evaluation steps."""
    user = sasrec(config, precision)

    def encode_items(params: Any, inputs: Any, presence: jax.Array) -> jax.Array:
        return adapted.module.apply(params, inputs, presence)

    def encode_users(params: Any, vectors: jax.Array, histories: jax.Array) -> jax.Array:
        return user.apply(params, vectors[histories], histories != 0)[:, -1]

    return NextItem(
        problem=problem,
        adapted=adapted,
        user=user,
        user_rows=compact_sasrec(config, precision),
        precision=precision,
        items_step=compile_step(encode_items),
        users_step=compile_step(encode_users),
    )


def rows_of(states: Any, rows: jax.Array) -> Any:
    """Rows of every modality's stored states."""
    return jax.tree.map(lambda array: array[rows], states)


class Batches:
    """Training batches by number, so that resuming is exact; see `training.Batches`."""

    def __init__(
        self, problem: Problem, adapted: Adapted, batch_size: int, epochs: int, seed: int, feed: Feed | None = None
    ):
        windows = problem.sequences.windows
        self.problem, self.live, self.feed = problem, not adapted.method.cached, feed
        # One epoch more than planned: profiling draws a batch after the last step.
        self.batches = SequenceBatches(windows=windows, batch_size=batch_size, epochs=epochs + 1, seed=seed)
        self.log_popularity = problem.sequences.log_popularity
        self.number = 0
        self.fingerprint = {"data": problem.fingerprint, "batch": batch_size, "epochs": epochs, "seed": seed}
        self._epoch: tuple[int, Any] = (-1, None)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.batches.steps_per_epoch

    def __next__(self):
        epoch, within = divmod(self.number, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self.batches.epoch(epoch))
        sequence = jax.tree.map(lambda array: array[within], self._epoch[1])
        self.number += 1
        unique = sequence.unique_items
        batch = {
            "sequence": sequence,
            "log_popularity": self.log_popularity[unique],
            "presence": self.problem.presence[unique],
        }
        if self.feed is not None:
            batch["inputs"] = self.feed(unique)
            if within + 1 < self.steps_per_epoch:
                self.feed.prefetch(self._epoch[1].unique_items[within + 1])
        elif self.live:
            batch["inputs"] = {name: self.problem.inputs(name, unique) for name in self.problem.towers}
        users = self.batches.order(epoch)[within]
        return batch, [self.problem.sequences.user_ids[user] for user in users if user >= 0]

    def state(self) -> dict[str, Any]:
        """See `training.Batches`."""
        return {"number": self.number, "fingerprint": self.fingerprint}

    def restore(self, state: dict[str, Any]) -> None:
        """See `training.Batches`."""
        if state["fingerprint"] != self.fingerprint:
            raise ConfigError(f"stream state of {state['fingerprint']} does not fit this run's {self.fingerprint}.")
        self.number = int(state["number"])
