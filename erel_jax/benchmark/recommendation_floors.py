"""The floors of the recommendation task as records: what a learned method must beat to be worth its cost."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from erel_jax.adapters.adapted import read_tower
from erel_jax.benchmark.floors import EmbeddingNeighbors, Floor, Markov, Popularity, TfidfNeighbors, rank_floors
from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.next_item import ITEMS_LIVE, KS, among
from erel_jax.benchmark.recommendation_problem import Problem
from erel_jax.benchmark.record import Record
from erel_jax.benchmark.states import stored_states, tower_identity
from erel_jax.data.state_store import Layout
from erel_jax.errors import DataError
from erel_jax.metrics.ranking import ranking_metrics
from erel_jax.profiling import PeakMeter, describe_environment, environment_reasons, latency
from erel_jax.sharding import compile_step

HEADLINE = "hr@10"
NO_ENCODER = "the floor encodes nothing"


def make_floors(problem: Problem, messenger: Messenger) -> dict[str, Floor]:
    """Popularity, transitions, title neighbors, and neighbors by each tower's frozen embedding."""
    data = problem.sequences
    floors: dict[str, Floor] = {
        "popularity": Popularity(train_counts=data.train_counts),
        "markov": Markov(windows=data.windows, train_counts=data.train_counts),
    }
    if any(problem.titles):
        try:
            floors["tfidf_neighbors"] = TfidfNeighbors(titles=problem.titles[1:])
        except DataError as error:
            messenger.note(f"without the floor tfidf_neighbors: {error}")
    for name, texts in problem.texts.items():
        if name != "text" and any(texts):
            floors[f"tfidf_{name}_neighbors"] = TfidfNeighbors(titles=texts[1:])
    for position, name in enumerate(problem.towers):
        embeddings = np.asarray(pooled(problem, name, messenger)[1:], np.float32)
        embeddings = np.where(problem.presence[1:, position, None], embeddings, 0.0)
        floors[f"{name}_embedding_neighbors"] = EmbeddingNeighbors(embeddings=embeddings)
    return floors


def pooled(problem: Problem, name: str, messenger: Messenger) -> np.ndarray:
    """A frozen tower's own embedding of every item, float32[N + 1, E]."""
    tower = problem.towers[name]
    step = compile_step(lambda params, inputs: read_tower(tower.encoder, params, inputs, None))

    def encode(start: int, stop: int) -> np.ndarray:
        rows = np.minimum(np.arange(start, start + ITEMS_LIVE), stop - 1)
        return np.asarray(step(tower.params, problem.inputs(name, rows)), np.float32)[: stop - start]

    identity = tower_identity(tower, problem.content(name), None, problem.config.precision)
    shape, storage = (tower.encoder.embedding_width,), problem.config.state_storage
    layout = Layout(rows=problem.items + 1, shape=shape, storage=storage, chunk=ITEMS_LIVE)
    store = stored_states(problem.cache, f"{name}-pooled", identity, layout, encode, messenger.progress)
    return store.widened(slice(None))


@dataclasses.dataclass(frozen=True, eq=False)
class _Restricted:
    """A floor that scores some columns of the catalog alone."""

    floor: Floor
    columns: np.ndarray

    def scores(self, histories: np.ndarray) -> np.ndarray:
        return self.floor.scores(histories)[:, self.columns]


def combination(floors: Mapping[str, Floor]) -> dict[str, float]:
    """Weights of the combined floor: neighbors count 1, transitions one half, scores max-normalized."""
    weights = {name: 1.0 for name in floors if name.endswith("neighbors")}
    return {**weights, "markov": 0.5} if weights else {}


def floor_records(problem: Problem, command: str, messenger: Messenger) -> list[Record]:
    """One record per floor, evaluated over all users under the same protocol as learned methods."""
    peak, environment = PeakMeter(), describe_environment(problem.config.precision)
    floors = make_floors(problem, messenger)
    weights = combination(floors)
    combinations = {"combined_floors": weights} if weights else {}
    test = problem.sequences.test
    messenger.progress("ranking floors", 0, 1)
    begun = time.perf_counter()
    targets, seen, ranked = test.targets, test.seen, floors
    if test.candidates is not None:
        targets, seen = among(test)
        ranked = {name: _Restricted(floor, test.candidates - 1) for name, floor in floors.items()}
    ranks = rank_floors(ranked, test.histories, targets, seen, combinations=combinations)
    if test.candidates is not None:
        # Counts say nothing about hidden items: all of them tie, and ties must not count as hits.
        ranks = {name: dataclasses.replace(found, favorable=found.by_id) for name, found in ranks.items()}
    seconds = time.perf_counter() - begun
    messenger.progress("ranking floors", 1, 1)
    measured = peak.read()
    records = []
    for name, ranked in ranks.items():
        parts = [floors[part] for part in weights] if name in combinations else [floors[name]]
        timing = latency(
            lambda history, parts=parts: [part.scores(history) for part in parts],
            lambda i: (test.histories[i % len(test.histories)][None],),
            queries=50,
        )
        records.append(
            Record(
                task="recommendation",
                data=problem.config.data_name,
                method=name,
                kind="floor",
                seed=0,
                metrics=ranking_metrics(ranked, KS),
                headline_metric=HEADLINE,
                evaluated_queries=len(test.targets),
                command=command,
                trainable_parameters=0,
                total_parameters=0,
                environment=environment,
                peak_bytes=measured.bytes,
                peak_bytes_source=f"{measured.source}, all floors together",
                evaluate_seconds=seconds,
                query_seconds_p50=timing.p50,
                query_seconds_p99=timing.p99,
                dropped=problem.dropped,
                notes=problem.remarks,
                unavailable={
                    "encode_items_per_second": NO_ENCODER,
                    "bytes_per_item": "not one vector per item",
                    "energy_joules": "a floor is not trained",
                    **environment_reasons(environment),
                },
            )
        )
    return records


def history_scores(floors: Mapping[str, Any], histories: np.ndarray) -> dict[str, np.ndarray]:
    """Scores float32[B, N] of each floor for a block of histories."""
    return {name: floor.scores(histories) for name, floor in floors.items()}
