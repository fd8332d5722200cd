"""The retrieval task of `erel bench`: find the picture of a text and the text of a picture.

`prepare` makes data and base encoders; `run_floors` scores what needs no training; `run_method` adapts, evaluates and
profiles one method. Pictures are the items and texts the queries; Recall@k is the share of queries with a right answer
among the first k.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import module
from erel_jax.adapters.adapted import Adapted, read_tower
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.recipes import RECIPES, Start
from erel_jax.benchmark.record import Record
from erel_jax.benchmark.retrieval_evaluation import Vectors, evaluate, gallery, query_latency
from erel_jax.benchmark.retrieval_feeds import ENCODE_BATCH
from erel_jax.benchmark.retrieval_problem import Problem, load_problem
from erel_jax.benchmark.retrieval_training import (
    Plan,
    adaptation,
    batch_size,
    carried_out,
    encoded,
    encoder_steps,
)
from erel_jax.layers import l2_normalize
from erel_jax.profiling import PeakMeter, describe_environment, environment_reasons, throughput
from erel_jax.sharding import Step, compile_step

HEADLINE = "recall@10"


def prepare(config: BenchConfig, messenger: Messenger) -> None:
    """Prepares data and base encoders in the cache and says what they are."""
    problem = load_problem(config, messenger)
    data = problem.data
    sizes = ", ".join(f"{name} {len(split)} images / {len(split.texts)} texts" for name, split in data.splits.items())
    messenger.note(f"data {data.name}: {sizes}")
    batch = batch_size(config, len(problem.split("train").texts))
    if batch < (config.batch_size or 0):
        messenger.note(f"batches of {batch}, since there are no more distinct training texts")
    dropped = {key: n for key, n in _dropped(problem).items() if n}
    if dropped:
        messenger.note(f"left out: {dropped}, listed in {config.out_folder / 'bad_records.jsonl'}")
    for name, tower in problem.towers.items():
        count = module.count(tower.params)
        messenger.note(f"{name} encoder: {tower.source}, {tower.encoder.layers} layers, {count:,} parameters")


def run_method(config: BenchConfig, name: str, seed: int, command: str, messenger: Messenger):
    """Adapts with one method or recipe and returns its record and gallery."""
    plan = _planned(load_problem(config, messenger), name, seed, messenger)
    # A student's towers replace those that the run was given.
    problem, adapted = plan.problem, plan.adapted
    towers = {modality: tower.params for modality, tower in problem.towers.items()}
    peak, environment = PeakMeter(), describe_environment(config.precision)
    done = carried_out(plan, messenger)
    params, trained, feeds = done.params, done.trained, done.feeds
    encode = encoder_steps(adapted)
    begun = time.perf_counter()
    vectors = {split: _vectors(encoded(done, encode, split, messenger)) for split in ("validation", "test")}
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
        extract_seconds=feeds.build_seconds + plan.seconds,
        evaluate_seconds=evaluate_seconds,
        encode_items_per_second=speed,
        query_seconds_p50=latency.p50,
        query_seconds_p99=latency.p99,
        bytes_per_item=float(vectors["test"].images.shape[1] * 4),
        batch_size=plan.batch if trained is not None else None,
        dropped=_dropped(problem),
        notes=(*plan.notes, *(trained.notes if trained is not None else ())),
        unavailable={**unavailable, **environment_reasons(environment)},
        **costs,
    )
    return [record], {name: gallery(problem.split("test"), vectors["test"])}


def _planned(problem: Problem, name: str, seed: int, messenger: Messenger) -> Plan:
    if name in RECIPES:
        return RECIPES[name].plan(name, Start(problem=problem, seed=seed, messenger=messenger))
    return adaptation(problem, name, seed)


def _vectors(found: dict[str, np.ndarray]) -> Vectors:
    return Vectors(images=jnp.asarray(found["image"]), texts=jnp.asarray(found["text"]))


def _end_to_end_step(problem: Problem, adapted: Adapted, modality: str) -> Step:
    """Raw inputs → unit vectors, as a new item or query is encoded: through the tower also for cached methods."""
    encoder = problem.encoders[modality]
    taps = adapted.taps.get(modality)

    def encode(params_and_towers: Any, inputs: Any) -> jax.Array:
        params, towers = params_and_towers
        read = read_tower(encoder, towers[modality], inputs, taps) if adapted.method.cached else inputs
        return l2_normalize(adapted.module.apply(params, {modality: read})[modality])

    return compile_step(encode)


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
