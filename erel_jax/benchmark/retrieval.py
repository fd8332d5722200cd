"""The retrieval task of `erel bench`: find the picture of a text and the text of a picture.

`prepare` makes data and base encoders; `run_floors` scores what needs no training; `run_method` adapts, evaluates and
profiles one method. Pictures are the items and texts the queries; Recall@k is the share of queries with a right answer
among the first k.
"""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import module
from erel_jax.adapters.adapted import Adapted, dual_encoder, read_tower, standardized, tower_parameters
from erel_jax.adapters.method import named_method
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.record import Record
from erel_jax.benchmark.retrieval_evaluation import Vectors, evaluate, gallery, query_latency
from erel_jax.benchmark.retrieval_problem import Problem, load_problem
from erel_jax.benchmark.states import stored_states, tower_identity
from erel_jax.benchmark.training_run import Trained, Training, run_fingerprint, train
from erel_jax.data.pipeline import BatchStream, eval_batches
from erel_jax.data.state_store import Layout, StateStore
from erel_jax.layers import l2_normalize
from erel_jax.layers import precision as precisions
from erel_jax.losses import chunked_info_nce, symmetric_info_nce
from erel_jax.profiling import PeakMeter, describe_environment, environment_reasons, throughput
from erel_jax.sharding import Step, compile_step
from erel_jax.training import in_sub_batches

BATCH = 256
EPOCHS = 7
ENCODE_BATCH = 256
SAMPLE = 2048  # texts or pictures that the standardization of side networks is measured on
HEADLINE = "recall@10"


def prepare(config: BenchConfig, messenger: Messenger) -> None:
    """Prepares data and base encoders in the cache and says what they are."""
    problem = load_problem(config, messenger)
    data = problem.data
    sizes = ", ".join(f"{name} {len(split)} images / {len(split.texts)} texts" for name, split in data.splits.items())
    messenger.note(f"data {data.name}: {sizes}")
    if _batch_size(problem) < (config.batch_size or 0):
        messenger.note(f"batches of {_batch_size(problem)}, since there are no more distinct training texts")
    dropped = {key: n for key, n in _dropped(problem).items() if n}
    if dropped:
        messenger.note(f"left out: {dropped}, listed in {config.out_folder / 'bad_records.jsonl'}")
    for name, tower in problem.towers.items():
        count = module.count(tower.params)
        messenger.note(f"{name} encoder: {tower.source}, {tower.encoder.layers} layers, {count:,} parameters")


def run_method(config: BenchConfig, name: str, seed: int, command: str, messenger: Messenger):
    """Adapts with one method and returns its record and gallery."""
    problem = load_problem(config, messenger)
    precision = precisions.named(config.precision)
    adapted = dual_encoder(problem.encoders, named_method(name), precision=precision)
    towers = {modality: tower.params for modality, tower in problem.towers.items()}
    params = tower_parameters(adapted, jax.random.key(seed), towers)
    feeds = Feeds(problem, adapted, messenger)
    params = standardized(adapted, params, feeds.sample)
    peak, environment = PeakMeter(), describe_environment(config.precision)
    trained = _train(problem, adapted, params, feeds, seed, messenger) if adapted.trainable else None
    params = trained.params if trained is not None else params
    encode = {modality: _encoder_step(adapted, modality) for modality in problem.encoders}
    begun = time.perf_counter()
    vectors = {split: _vectors(problem, feeds, encode, params, split, messenger) for split in ("validation", "test")}
    metrics = {split: evaluate(v, problem.split(split)) for split, v in vectors.items()}
    evaluate_seconds = time.perf_counter() - begun
    recompiled = sum(step.compilations - 1 for step in encode.values())
    raw = {m: _end_to_end_step(problem, adapted, m) for m in problem.encoders}
    frozen_towers = {m: towers[m] for m in towers} if adapted.method.cached else {}
    latency = query_latency(problem, raw["text"], (params, frozen_towers), vectors["test"])
    speed = _encode_speed(problem, raw["image"], (params, frozen_towers))
    costs: dict[str, Any] = dict(trained.costs) if trained is not None else {"recompiles_after_warmup": 0}
    costs["recompiles_after_warmup"] += recompiled
    unavailable = dict(trained.unavailable) if trained is not None else {"energy_joules": "a floor is not trained"}
    if trained is None:
        measured = peak.read()
        costs |= {"peak_bytes": measured.bytes, "peak_bytes_source": measured.source, "trainable_parameters": 0}
    total = module.count(params) + sum(module.count(p) for p in frozen_towers.values())
    record = Record(
        task="retrieval",
        data=problem.data.name,
        method=name,
        kind="learned" if trained is not None else "floor",
        seed=seed,
        metrics=metrics["test"],
        validation_metrics=metrics["validation"],
        headline_metric=HEADLINE,
        evaluated_queries=len(problem.split("test").texts),
        command=command,
        total_parameters=total,
        environment=environment,
        extract_seconds=feeds.build_seconds,
        evaluate_seconds=evaluate_seconds,
        encode_items_per_second=speed,
        query_seconds_p50=latency.p50,
        query_seconds_p99=latency.p99,
        bytes_per_item=float(vectors["test"].images.shape[1] * 4),
        batch_size=_batch_size(problem) if trained is not None else None,
        dropped=_dropped(problem),
        notes=tuple(trained.notes) if trained is not None else (),
        unavailable={**unavailable, **environment_reasons(environment)},
        **costs,
    )
    return [record], {name: gallery(problem.split("test"), vectors["test"])}


class Feeds:
    """What an adapted model reads at each step: live inputs, or states stored once per tower and split."""

    def __init__(self, problem: Problem, adapted: Adapted, messenger: Messenger):
        self.problem, self.adapted, self.messenger = problem, adapted, messenger
        self.build_seconds = 0.0
        self._states: dict[tuple[str, str], StateStore] = {}
        if adapted.method.cached:
            for modality in problem.encoders:
                step = compile_step(self._read(modality))
                for split in ("train", "validation", "test"):
                    self._store(step, modality, split)

    def __call__(self, modality: str, split: str, rows: np.ndarray) -> Any:
        """Inputs of `modality` for rows of a split's texts or pictures."""
        if self.adapted.method.cached:
            return self._states[modality, split].read(rows)
        return self.problem.inputs(modality, split, rows)

    def sample(self, modality: str) -> np.ndarray:
        """What the tower says of some training texts or pictures, float32[N, …]."""
        total = self.problem.rows(modality, "train")
        rows = np.linspace(0, total - 1, min(SAMPLE, total)).astype(int)
        if self.adapted.method.cached:
            return self._states[modality, "train"].widened(rows)
        step, tower, parts = compile_step(self._read(modality)), self.problem.towers[modality], []
        for start in range(0, len(rows), ENCODE_BATCH):
            chunk = np.resize(rows[start : start + ENCODE_BATCH], ENCODE_BATCH)
            parts.append(np.asarray(step(tower.params, self.problem.inputs(modality, "train", chunk)), np.float32))
        return np.concatenate(parts)[: len(rows)]

    def _taps(self, modality: str) -> tuple[int, ...] | None:
        return self.adapted.taps.get(modality)

    def _read(self, modality: str):
        encoder, taps = self.problem.encoders[modality], self._taps(modality)
        return lambda params, inputs: read_tower(encoder, params, inputs, taps)

    def _store(self, step: Step, modality: str, split: str) -> None:
        problem, tower = self.problem, self.problem.towers[modality]

        def encode(start: int, stop: int) -> np.ndarray:
            rows = np.minimum(np.arange(start, start + ENCODE_BATCH), stop - 1)
            states = step(tower.params, problem.inputs(modality, split, rows))
            return np.asarray(states, np.float32)[: stop - start]

        taps, config = self._taps(modality), problem.config
        identity = tower_identity(tower, problem.data.fingerprint, taps, config.precision)
        shape = (tower.encoder.embedding_width,) if taps is None else (len(taps), tower.encoder.width)
        rows = problem.rows(modality, split)
        store = stored_states(
            problem.cache,
            f"{modality}-{self.adapted.method.reads}",
            {**identity, "split": split},
            Layout(rows=rows, shape=shape, storage=config.state_storage, chunk=ENCODE_BATCH),
            encode,
            self.messenger.progress,
        )
        self._states[modality, split] = store
        self.build_seconds += store.build_seconds


class _Batches:
    """Training pairs, each text at most once per batch."""

    def __init__(self, problem: Problem, feeds: Feeds, batch: int, seed: int):
        self.problem, self.feeds, self.split = problem, feeds, problem.split("train")
        self.stream = BatchStream(
            len(self.split),
            batch=batch,
            seed=seed,
            data_fingerprint=problem.data.fingerprint,
            groups=self.split.text_of_image,
        )

    def __next__(self):
        rows = next(self.stream)
        texts = self.split.text_of_image[rows]
        batch = {"image": self.feeds("image", "train", rows), "text": self.feeds("text", "train", texts)}
        return {**batch, "text_id": texts.astype(np.int32)}, [self.split.image_ids[row] for row in rows]

    def state(self) -> dict[str, Any]:
        """See `training.Batches`."""
        return self.stream.state()

    def restore(self, state: dict[str, Any]) -> None:
        """See `training.Batches`."""
        self.stream.restore(state)


def _batch_size(problem: Problem) -> int:
    """Pairs per step; a batch holds each text once, so there cannot be more than texts."""
    return min(problem.config.batch_size or BATCH, len(problem.split("train").texts))


def _train(problem: Problem, adapted: Adapted, params: Any, feeds: Feeds, seed: int, messenger: Messenger) -> Trained:
    config = problem.config
    batches = _Batches(problem, feeds, _batch_size(problem), seed)

    def encode(params: Any, inputs: Any, key: jax.Array | None) -> Any:
        return adapted.module.apply(params, inputs, key=key, train=True)

    encode_batch = in_sub_batches(encode, config.sub_batch) if config.sub_batch else encode
    contrast = partial(chunked_info_nce, kept_bytes=0) if config.sub_batch else symmetric_info_nce

    def loss_fn(params: Any, batch: Any, key: jax.Array):
        vectors = encode_batch(params, {name: batch[name] for name in ("image", "text")}, key)
        scale = params["head"]["logit_scale"]
        return contrast(vectors["text"], vectors["image"], scale, group=batch["text_id"]), {}

    epochs = config.epochs or EPOCHS
    fingerprint = run_fingerprint(
        method=adapted.method.name,
        data=problem.data.fingerprint,
        seed=seed,
        epochs=epochs,
        batch=batches.stream.batch,
        precision=config.precision,
        towers={name: tower.fingerprint for name, tower in problem.towers.items()},
    )
    return train(
        Training(
            params=params,
            trainable=adapted.trainable,
            learning_rates=adapted.learning_rates,
            loss_fn=loss_fn,
            batches=batches,
            steps_per_epoch=batches.stream.steps_per_epoch,
            epochs=epochs,
            seed=seed,
            seconds=config.seconds_per_method,
            schedule="cosine",
            clip_norm=1.0,
            fingerprint=fingerprint,
            folder=config.out_folder / "checkpoints" / f"{adapted.method.name}-seed{seed}",
        ),
        messenger,
    )


def _encoder_step(adapted: Adapted, modality: str) -> Step:
    """What the method reads → unit vectors."""
    return compile_step(lambda params, inputs: l2_normalize(adapted.module.apply(params, {modality: inputs})[modality]))


def _end_to_end_step(problem: Problem, adapted: Adapted, modality: str) -> Step:
    """Raw inputs → unit vectors, as a new item or query is encoded: through the tower also for cached methods."""
    encoder = problem.encoders[modality]
    taps = adapted.taps.get(modality)

    def encode(params_and_towers: Any, inputs: Any) -> jax.Array:
        params, towers = params_and_towers
        read = read_tower(encoder, towers[modality], inputs, taps) if adapted.method.cached else inputs
        return l2_normalize(adapted.module.apply(params, {modality: read})[modality])

    return compile_step(encode)


def _vectors(problem: Problem, feeds: Feeds, encode: dict[str, Step], params: Any, split: str, messenger: Messenger):
    outputs = {}
    for modality, step in encode.items():
        total, parts = problem.rows(modality, split), []
        for rows, mask in eval_batches(total, ENCODE_BATCH):
            parts.append(np.asarray(step(params, feeds(modality, split, rows)))[mask])
            messenger.progress(f"encoding {split} {modality}s", min(len(parts) * ENCODE_BATCH, total), total)
        outputs[modality] = jnp.asarray(np.concatenate(parts))
    return Vectors(images=outputs["image"], texts=outputs["text"])


def _encode_speed(problem: Problem, step: Step, params: Any) -> float:
    rows = np.arange(ENCODE_BATCH) % problem.rows("image", "test")
    batches = [problem.inputs("image", "test", rows)] * 6
    return throughput(lambda inputs: step(params, inputs), batches, batch_size=ENCODE_BATCH, warmup=2)


def _dropped(problem: Problem) -> dict[str, int]:
    counts = dict(problem.data.dropped)
    for split in problem.data.splits.values():
        for reason, number in split.dropped.items():
            counts[reason] = counts.get(reason, 0) + number
    return counts


def run_floors(config: BenchConfig, command: str, messenger: Messenger):
    """Training-free rows: chance, and neighbors through the training pictures."""
    from erel_jax.benchmark.retrieval_floors import floor_records

    problem = load_problem(config, messenger)
    return floor_records(problem, command, messenger, HEADLINE, _dropped(problem)), {}
