"""Training of a dual encoder on pairs of a picture and a text.

A `Plan` says what is trained, on which pairs and toward what; `carried_out` trains it and `encoded` reads the vectors.
An adaptation method is the plan `adaptation`; `retrieval_recipes` makes others. Plans may build on one another: a
teacher, a reference or a judge is a plan that was carried out before, whose vectors are stored (`stored_vectors`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.adapters.adapted import Adapted, dual_encoder, standardized, tower_parameters
from erel_jax.adapters.method import named_method
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.jobs import source_digest
from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.retrieval_feeds import ENCODE_BATCH, Feeds
from erel_jax.benchmark.retrieval_problem import Problem
from erel_jax.benchmark.states import stored_states
from erel_jax.benchmark.training_run import Trained, Training, run_fingerprint, train
from erel_jax.data.pipeline import BatchStream, GatheredBatches, eval_batches
from erel_jax.data.state_store import Layout, StateStore
from erel_jax.layers import l2_normalize
from erel_jax.layers import precision as precisions
from erel_jax.losses import chunked_info_nce, symmetric_info_nce
from erel_jax.sharding import Step, compile_step
from erel_jax.training import in_sub_batches

BATCH = 64
EPOCHS = 8
MODALITIES = ("image", "text")

Encode = Callable[[Any, Mapping[str, Any], Any], dict[str, jax.Array]]
"""`encode(params, inputs, key)`: inputs by modality → vectors float32[B, E] by modality."""
Objective = Callable[[Encode, Any, Mapping[str, Any], Any], jax.Array]
"""`objective(encode, params, batch, key)` → the loss; `batch` holds inputs by modality, `text_id` and the columns."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is trained, on which pairs and toward what.

    Attributes:
        name: of the method or recipe; folders and fingerprints carry it.
        problem: data and towers; a student's towers replace those of the run.
        adapted: the model.
        seed: of new parameters, of the order of pairs and of the step's key.
        objective: the loss; None is the symmetric contrastive one.
        extras: further trained parameters of the objective with their starting values, at `params["objective"]`.
        rows: training pictures to use, all of them when None.
        columns: further arrays with one row per training picture, which the objective finds in the batch.
        feeds_on: modalities that the model reads in training; the others come from columns.
        draws: pairs read per pair trained, for an objective that chooses among them.
        notes: remarks for the record.
        seconds: spent before this training, on teachers, judges and selection.
    """

    name: str
    problem: Problem
    adapted: Adapted
    seed: int
    objective: Objective | None = None
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rows: np.ndarray | None = None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    feeds_on: tuple[str, ...] = MODALITIES
    draws: int = 1
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @cached_property
    def batch(self) -> int:
        """Pairs per step; a batch holds each text once, so there cannot be more than texts."""
        split = self.problem.split("train")
        texts = split.text_of_image if self.rows is None else split.text_of_image[self.rows]
        return batch_size(self.problem.config, len(np.unique(texts)) // self.draws)

    def identity(self) -> dict[str, Any]:
        """Everything that shapes the trained parameters, as JSON values."""
        problem, config = self.problem, self.problem.config
        return run_fingerprint(
            method=self.name,
            data=problem.data.fingerprint,
            seed=self.seed,
            epochs=config.epochs or EPOCHS,
            batch=self.batch,
            precision=config.precision,
            towers={name: tower.fingerprint for name, tower in problem.towers.items()},
        )


def batch_size(config: BenchConfig, texts: int) -> int:
    """Pairs per step where there are so many distinct texts."""
    return min(config.batch_size or BATCH, texts)


def adaptation(problem: Problem, method: str, seed: int) -> Plan:
    """The plan of an adaptation method: its towers on all pairs with the contrastive loss."""
    precision = precisions.named(problem.config.precision)
    adapted = dual_encoder(problem.encoders, named_method(method), precision=precision)
    return Plan(name=method, problem=problem, adapted=adapted, seed=seed)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CarriedOut:
    """A plan and what came of it: all parameters, the feeds, and the costs (None where nothing trains)."""

    plan: Plan
    params: Any
    feeds: Feeds
    trained: Trained | None


def carried_out(plan: Plan, messenger: Messenger) -> CarriedOut:
    """Trains a plan; resumes from its checkpoints when there are some.

    Raises:
        PreemptedError, NonFiniteError: as `training_run.train`.
    """
    adapted, towers = plan.adapted, {name: tower.params for name, tower in plan.problem.towers.items()}
    params = tower_parameters(adapted, jax.random.key(plan.seed), towers)
    feeds = Feeds(plan.problem, adapted, messenger)
    params = standardized(adapted, params, feeds.sample)
    trained = _train(plan, params, feeds, messenger) if adapted.trainable else None
    return CarriedOut(plan=plan, params=params if trained is None else trained.params, feeds=feeds, trained=trained)


def contrast(config: BenchConfig) -> Callable[..., jax.Array]:
    """The symmetric contrastive loss: in tiles where batches are larger than memory, else with all logits."""
    return partial(chunked_info_nce, kept_bytes=0) if config.sub_batch else symmetric_info_nce


def contrastive(loss: Callable[..., jax.Array]) -> Objective:
    """The objective of a loss over two sides at the head's learned scale; pairs of one text are a group."""

    def objective(encode: Encode, params: Any, batch: Mapping[str, Any], key: Any) -> jax.Array:
        vectors = encode(params, {name: batch[name] for name in MODALITIES}, key)
        scale = params["head"]["logit_scale"]
        return loss(vectors["text"], vectors["image"], scale, group=batch["text_id"])

    return objective


def _batches(plan: Plan, feeds: Feeds) -> GatheredBatches:
    """Training pairs, each text at most once per batch."""
    split = plan.problem.split("train")
    kept = np.arange(len(split)) if plan.rows is None else plan.rows

    def gather(places: np.ndarray) -> dict[str, Any]:
        rows = kept[places]
        texts = split.text_of_image[rows]
        own = {"image": rows, "text": texts}
        batch = {name: feeds(name, "train", own[name]) for name in plan.feeds_on}
        columns = {name: values[rows] for name, values in plan.columns.items()}
        return {**batch, **columns, "text_id": texts.astype(np.int32)}

    stream = BatchStream(
        len(kept),
        batch=plan.batch * plan.draws,
        seed=plan.seed,
        data_fingerprint=plan.problem.data.fingerprint,
        groups=split.text_of_image[kept],
    )
    return GatheredBatches(stream, gather, [split.image_ids[row] for row in kept])


def _train(plan: Plan, params: Any, feeds: Feeds, messenger: Messenger) -> Trained:
    config, adapted = plan.problem.config, plan.adapted
    batches = _batches(plan, feeds)
    objective = plan.objective or contrastive(contrast(config))

    def encode(params: Any, inputs: Any, key: jax.Array | None) -> Any:
        return adapted.module.apply(params, inputs, key=key, train=True)

    encode_batch = in_sub_batches(encode, config.sub_batch) if config.sub_batch else encode

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        return objective(encode_batch, params, batch, key), {}

    extras = {name: jnp.asarray(value, jnp.float32) for name, value in plan.extras.items()}
    return train(
        Training(
            params={**params, "objective": extras} if extras else params,
            trainable=(*adapted.trainable, "objective/.*") if extras else adapted.trainable,
            learning_rates=adapted.learning_rates,
            loss_fn=loss_fn,
            batches=batches,
            steps_per_epoch=batches.stream.steps_per_epoch,
            epochs=config.epochs or EPOCHS,
            seed=plan.seed,
            seconds=config.seconds_per_method,
            schedule="cosine",
            clip_norm=1.0,
            fingerprint=plan.identity(),
            folder=config.out_folder / "checkpoints" / f"{plan.name}-seed{plan.seed}",
        ),
        messenger,
    )


def encoder_steps(adapted: Adapted) -> dict[str, Step]:
    """Per modality the compiled step from what the model reads to unit vectors."""

    def step(modality: str) -> Step:
        return compile_step(
            lambda params, inputs: l2_normalize(adapted.module.apply(params, {modality: inputs})[modality])
        )

    return {modality: step(modality) for modality in adapted.encoders}


def encoded(
    done: CarriedOut, encode: Mapping[str, Step], split: str, messenger: Messenger, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Unit vectors float32[N, E] of a split by modality; `rows` limits the pictures."""
    outputs = {}
    for modality, step in encode.items():
        wanted = np.arange(done.plan.problem.rows(modality, split))
        wanted = rows if modality == "image" and rows is not None else wanted
        parts = []
        for places, mask in eval_batches(len(wanted), ENCODE_BATCH):
            parts.append(np.asarray(step(done.params, done.feeds(modality, split, wanted[places])))[mask])
            number = min(len(parts) * ENCODE_BATCH, len(wanted))
            messenger.progress(f"encoding {split} {modality}s", number, len(wanted))
        outputs[modality] = np.concatenate(parts)
    return outputs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StoredVectors:
    """Unit vectors of the training split under a model that was trained before.

    Attributes:
        stores: by modality asked for, one row per picture or text.
        text_of_image: row of the text of each picture.
        seconds: what training and encoding took when they were made.
        notes: remarks for the record of whoever learns from them.
    """

    stores: Mapping[str, StateStore]
    text_of_image: np.ndarray
    seconds: float
    notes: tuple[str, ...]

    def columns(self, prefix: str) -> dict[str, Any]:
        """`{prefix}_image` and `{prefix}_text`, as far as they are stored, one row per training picture."""
        vectors = {f"{prefix}_{name}": store.widened(slice(None)) for name, store in self.stores.items()}
        texts = f"{prefix}_text"
        return vectors | ({texts: vectors[texts][self.text_of_image]} if texts in vectors else {})


def stored_vectors(plan: Plan, messenger: Messenger, modalities: Sequence[str] = MODALITIES) -> StoredVectors:
    """The training split's vectors under a plan's model, which is trained only if they are not stored yet.

    Teachers' and references' outputs are kept like hidden states, so that several students or runs share one teacher.
    """
    problem, identity = plan.problem, {key: str(value) for key, value in plan.identity().items()}
    model: list[tuple[CarriedOut, dict[str, Step]]] = []
    stores = {}
    for modality in modalities:

        def encode(start: int, stop: int, modality: str = modality) -> np.ndarray:
            if not model:
                messenger.note(f"training {plan.name}, whose vectors this method learns from")
                done = carried_out(plan, messenger)
                model.append((done, encoder_steps(plan.adapted)))
            done, steps = model[0]
            rows = np.minimum(np.arange(start, start + ENCODE_BATCH), stop - 1)
            vectors = steps[modality](done.params, done.feeds(modality, "train", rows))
            return np.asarray(vectors, np.float32)[: stop - start]

        layout = Layout(rows=problem.rows(modality, "train"), shape=(_width(plan),), chunk=ENCODE_BATCH)
        stores[modality] = stored_states(
            problem.cache,
            f"{modality}-vectors-{plan.name}",
            {**identity, **_limits(problem.config), "source": source_digest(), "modality": modality},
            layout,
            encode,
            messenger.progress,
        )
    seconds = sum(store.build_seconds for store in stores.values())
    notes = (f"learns from the vectors of {plan.name}, which took {seconds:.0f} s, counted as extraction",)
    if model and model[0][0].trained is not None:
        notes += (f"peak memory covers the training of {plan.name} in the same process",)
    return StoredVectors(
        stores=stores, text_of_image=problem.split("train").text_of_image, seconds=seconds, notes=notes
    )


def _limits(config: BenchConfig) -> dict[str, str]:
    """Options that shape a finished model, but which an interrupted run may change before it goes on."""
    return {"limit": str(config.seconds_per_method), "storage": config.state_storage}


def _width(plan: Plan) -> int:
    widths = [e.width if name in plan.adapted.taps else e.embedding_width for name, e in plan.adapted.encoders.items()]
    return min(widths)
