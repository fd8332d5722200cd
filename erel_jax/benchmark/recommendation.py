"""The recommendation task of `erel bench`: predict each user's next item from the items' content.

`prepare` reads and checks everything; `run_floors` scores what needs no training; `run_method` adapts, evaluates and
profiles one method under the full-ranking protocol (all items, history masked, leave-one-out).
"""

import dataclasses
import html
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import module
from erel_jax.adapters.adapted import Adapted, item_encoder, read_tower, standardized, tower_parameters
from erel_jax.adapters.method import Method, named_method
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.next_item import ITEMS_LIVE, Batches, NextItem, next_item
from erel_jax.benchmark.recommendation_problem import Problem, load_problem
from erel_jax.benchmark.record import Record
from erel_jax.benchmark.report.gallery import GalleryQuery, GalleryResult
from erel_jax.benchmark.state_feed import ShardedStates, StreamedStates, resident_states
from erel_jax.benchmark.states import choose_placement, described, device_budget, stored_states, tower_identity
from erel_jax.benchmark.training_run import Trained, Training, run_fingerprint, train
from erel_jax.data.state_store import Layout, StateStore
from erel_jax.errors import DataError
from erel_jax.layers import precision as precisions
from erel_jax.profiling import Timing, describe_environment, environment_reasons, latency, throughput
from erel_jax.recommendation.sasrec import SasrecConfig
from erel_jax.sharding import compile_step

BATCH_CACHED, BATCH_LIVE = 128, 64
EPOCHS_CACHED, EPOCHS_LIVE = 25, 5
SECONDS_LIVE = 90.0
EMBEDDING = 64
SAMPLE = 2048  # items that the standardization of side networks is measured on
HEADLINE = "hr@10"


def prepare(config: BenchConfig, messenger: Messenger) -> None:
    """Reads everything once, so that a mistake shows before any training, and says what was found."""
    problem = load_problem(config, messenger)
    data = problem.sequences
    messenger.note(f"{data.user_count:,} users, {data.item_count:,} items, towers: {', '.join(problem.towers)}")
    for remark in problem.remarks:
        messenger.note(remark)
    dropped = {key: n for key, n in problem.dropped.items() if n}
    if dropped:
        messenger.note(f"left out or missing: {dropped}")
    for name, tower in problem.towers.items():
        encoder = tower.encoder
        messenger.note(f"{name} encoder: {tower.source}, {encoder.layers} layers of width {encoder.width}")
    if config.seconds_per_method is None:
        messenger.note(
            f"methods that run the towers live stop after {SECONDS_LIVE:.0f} s of training each; "
            "--seconds-per-method changes that"
        )


def run_method(config: BenchConfig, name: str, seed: int, command: str, messenger: Messenger):
    """Adapts with one method and returns its record and gallery."""
    problem = load_problem(config, messenger)
    if name == "blend":
        from erel_jax.benchmark.blend import run_blend

        return run_blend(problem, seed, command, messenger)
    model, trained, extract_seconds = fit_method(problem, name, seed, messenger)
    record, vectors = learned_record(problem, model, trained, name, seed, command, messenger, extract_seconds)
    return [record], {name: gallery(problem, model, trained.params, vectors)}


def fit_method(problem: Problem, name: str, seed: int, messenger: Messenger) -> tuple[NextItem, Trained, float]:
    """Trains one method; returns the model, what training gave, and the seconds that storing states took."""
    config, method = problem.config, named_method(name)
    precision = precisions.named(config.precision)
    adapted = item_encoder(problem.encoders, method, embedding=EMBEDDING, precision=precision)
    users = SasrecConfig(width=EMBEDDING, max_length=problem.sequences.max_length)
    model = next_item(problem, adapted, users, precision)
    towers = {modality: tower.params for modality, tower in problem.towers.items()}
    key = jax.random.key(seed)
    params = dict(tower_parameters(adapted, key, towers))
    params["user"] = module.init(jax.random.fold_in(key, 1), model.user.spec)
    stores = _stores(problem, adapted, messenger) if method.cached else {}
    extract_seconds = sum(store.build_seconds for store in stores.values())
    model, params = _placed(model, params, stores)
    params = standardized(adapted, params, lambda modality: _sample(problem, adapted, stores, modality))
    epochs = config.epochs or (EPOCHS_CACHED if method.cached else EPOCHS_LIVE)
    batches = Batches(problem, adapted, _batch_size(config, method), epochs, seed, model.feed)

    def evaluate(params: Any) -> float:
        vectors = model.item_vectors(params, lambda n, m: messenger.progress("encoding items", n, m))
        return model.metrics(params, vectors, problem.sequences.valid)[HEADLINE]

    fingerprint = run_fingerprint(
        method=name,
        precision=config.precision,
        **batches.fingerprint,
        towers={modality: tower.fingerprint for modality, tower in problem.towers.items()},
    )
    trained = train(
        Training(
            params=params,
            trainable=(*adapted.trainable, "user/.*"),
            learning_rates=adapted.learning_rates,
            loss_fn=model.loss,
            batches=batches,
            steps_per_epoch=batches.steps_per_epoch,
            epochs=epochs,
            seed=seed,
            seconds=config.seconds_per_method or (None if method.cached else SECONDS_LIVE),
            # A live method is usually stopped by its time limit, before a schedule that ends at zero could help.
            schedule="cosine" if method.cached else "constant",
            evaluate=evaluate,
            folder=config.out_folder / "checkpoints" / f"{name}-seed{seed}",
            fingerprint=fingerprint,
        ),
        messenger,
    )
    return model, trained, extract_seconds


def _batch_size(config: BenchConfig, method: Method) -> int:
    return config.batch_size or (BATCH_CACHED if method.cached else BATCH_LIVE)


def learned_record(
    problem: Problem,
    model: NextItem,
    trained: Trained,
    name: str,
    seed: int,
    command: str,
    messenger: Messenger,
    extract_seconds: float,
) -> tuple[Record, jax.Array]:
    """Evaluates and profiles a trained model; returns its record and the catalog's vectors."""
    params, data = trained.params, problem.sequences
    environment = describe_environment(problem.config.precision)
    begun = time.perf_counter()
    vectors = model.item_vectors(params, lambda n, m: messenger.progress("encoding items", n, m))
    test = model.metrics(params, vectors, data.test)
    evaluate_seconds = time.perf_counter() - begun
    validation = model.metrics(params, vectors, data.valid)
    costs = trained.costs | {
        "recompiles_after_warmup": trained.costs["recompiles_after_warmup"]
        + sum(step.compilations - 1 for step in (model.items_step, model.users_step))
    }
    timing = query_latency(problem, model, params, vectors)
    # A cached method's frozen towers are not among its parameters, but an item still passes through them once.
    aside = problem.towers if model.adapted.method.cached else {}
    total = module.count({k: v for k, v in params.items() if k != "catalog"})
    record = Record(
        task="recommendation",
        data=problem.config.data_name,
        method=name,
        kind="learned",
        seed=seed,
        metrics=test,
        validation_metrics=validation,
        headline_metric=HEADLINE,
        evaluated_queries=data.user_count,
        command=command,
        total_parameters=total + sum(module.count(tower.params) for tower in aside.values()),
        environment=environment,
        extract_seconds=extract_seconds,
        evaluate_seconds=evaluate_seconds,
        encode_items_per_second=encode_speed(problem, model.adapted, params),
        query_seconds_p50=timing.p50,
        query_seconds_p99=timing.p99,
        bytes_per_item=float(EMBEDDING * 4),
        batch_size=_batch_size(problem.config, model.adapted.method),
        dropped=problem.dropped,
        notes=(*problem.remarks, *trained.notes),
        unavailable={**trained.unavailable, **environment_reasons(environment)},
        **costs,
    )
    return record, vectors


def _stores(problem: Problem, adapted: Adapted, messenger: Messenger) -> dict[str, StateStore]:
    """Stored states of every modality, encoded now where they are missing."""
    config, layouts = problem.config, {}
    for name, tower in problem.towers.items():
        taps = adapted.taps.get(name)
        shape = (tower.encoder.embedding_width,) if taps is None else (len(taps), tower.encoder.width)
        layouts[name] = Layout(rows=problem.items + 1, shape=shape, storage=config.state_storage, chunk=ITEMS_LIVE)
    messenger.note(described(layouts, _placement(config, layouts), device_budget()))
    stores = {}
    for name, tower in problem.towers.items():
        taps = adapted.taps.get(name)
        step = compile_step(lambda params, inputs, e=tower.encoder, t=taps: read_tower(e, params, inputs, t))

        def encode(start: int, stop: int, name: str = name, step: Any = step, params: Any = tower.params) -> np.ndarray:
            rows = np.minimum(np.arange(start, start + ITEMS_LIVE), stop - 1)
            return np.asarray(step(params, problem.inputs(name, rows)), np.float32)[: stop - start]

        stores[name] = stored_states(
            problem.cache,
            f"{name}-{adapted.method.reads}",
            tower_identity(tower, problem.content(name), taps, config.precision),
            layouts[name],
            encode,
            messenger.progress,
        )
    return stores


def _placement(config: BenchConfig, layouts: dict[str, Layout]) -> str:
    total = sum(layout.bytes for layout in layouts.values())
    return choose_placement(total, device_budget(), jax.device_count(), config.state_placement)


def _placed(model: NextItem, params: dict[str, Any], stores: dict[str, StateStore]) -> tuple[NextItem, dict[str, Any]]:
    """The model and parameters with the stored states where they fit: in the catalog, or brought by a feed."""
    if not stores:
        return model, params
    placement = _placement(model.problem.config, {name: store.layout for name, store in stores.items()})
    if placement == "resident":
        return model, {**params, "catalog": {"states": resident_states(stores)}}
    feed = ShardedStates(stores) if placement == "sharded" else StreamedStates(stores)
    return dataclasses.replace(model, feed=feed), params


def _sample(problem: Problem, adapted: Adapted, stores: dict[str, StateStore], modality: str) -> np.ndarray:
    """Taps float[N, K, D] of up to `SAMPLE` training items spread over the catalog that have this modality."""
    column = list(problem.towers).index(modality)
    known = np.flatnonzero(problem.presence[:, column] & (problem.sequences.train_counts > 0))
    if not len(known):
        raise DataError(f"no training item has a {modality}; leave this encoder out or check the items.")
    rows = known[np.linspace(0, len(known) - 1, min(SAMPLE, len(known))).astype(int)]
    if adapted.method.cached:
        return stores[modality].widened(rows)
    tower, taps = problem.towers[modality], adapted.taps[modality]
    step = compile_step(lambda params, inputs: read_tower(tower.encoder, params, inputs, taps))
    parts = []
    for start in range(0, len(rows), ITEMS_LIVE):
        chunk = np.resize(rows[start : start + ITEMS_LIVE], ITEMS_LIVE)
        parts.append(np.asarray(step(tower.params, problem.inputs(modality, chunk)), np.float32))
    return np.concatenate(parts)[: len(rows)]


def query_latency(problem: Problem, model: NextItem, params: Any, vectors: jax.Array) -> Timing:
    """One user at a time: encode the history, score the whole catalog, take the ten best."""
    histories = problem.sequences.test.histories

    def answer(user: Any, vectors: jax.Array, history: jax.Array) -> Any:
        state = model.user.apply(user, vectors[history], history != 0)[:, -1]
        return jax.lax.top_k(jnp.matmul(state, vectors[1:].T), min(10, problem.items))

    step = compile_step(answer)
    return latency(
        lambda history: step(params["user"], vectors, history), lambda i: (histories[i % len(histories)][None],)
    )


def encode_speed(problem: Problem, adapted: Adapted, params: Any) -> float:
    """Items per second from raw inputs to vectors, through the towers also for cached methods."""
    towers = {name: tower.params for name, tower in problem.towers.items()}
    model = {k: v for k, v in params.items() if k in ("towers", "head", "standardize")}

    def encode(model: Any, towers: Any, inputs: Any, presence: jax.Array) -> jax.Array:
        if adapted.method.cached:
            inputs = {
                name: read_tower(problem.encoders[name], towers[name], given, adapted.taps.get(name))
                for name, given in inputs.items()
            }
        return adapted.module.apply(model, inputs, presence)

    step = compile_step(encode)
    rows = np.arange(1, ITEMS_LIVE + 1) % (problem.items + 1)
    inputs = {name: problem.inputs(name, rows) for name in problem.towers}
    presence = problem.presence[rows]
    return throughput(lambda given: step(model, towers, given, presence), [inputs] * 6, batch_size=ITEMS_LIVE, warmup=2)


def gallery(problem: Problem, model: NextItem, params: Any, vectors: jax.Array) -> list[GalleryQuery]:
    """A few users: the last titles of their history, and what the model would show them."""
    test = problem.sequences.test
    chosen = np.linspace(0, len(test.targets) - 1, 6).astype(int)
    states = np.asarray(model.user_states(params, vectors, test.histories[chosen]))
    scores = states @ np.asarray(vectors[1:]).T
    queries = []
    for row, user in zip(scores, chosen, strict=True):
        seen = test.seen[user][test.seen[user] > 0] - 1
        row[seen] = -np.inf
        best = [i for i in np.argsort(-row, kind="stable")[:5] if np.isfinite(row[i])]
        results = [
            GalleryResult(
                text=_shown(problem, i + 1),
                png=_picture(problem, i + 1),
                score=float(row[i]),
                relevant=bool(i + 1 == test.targets[user]),
            )
            for i in best
        ]
        history = [_shown(problem, i) for i in test.histories[user] if i][-3:]
        queries.append(GalleryQuery(query_text="\n".join(history), query_png=None, results=results))
    return queries


def _shown(problem: Problem, number: int) -> str:
    """An item's title as a person reads it; encoders get the raw one, entities and all, as published."""
    return html.unescape(problem.titles[number]) or problem.sequences.item_ids[number - 1]


def _picture(problem: Problem, number: int) -> bytes | None:
    if problem.pictures is None or not problem.presence[number, list(problem.towers).index("image")]:
        return None
    from erel_jax.data.images import encode_png

    return encode_png(np.asarray(problem.pictures[number]))


def run_floors(config: BenchConfig, command: str, messenger: Messenger):
    """Training-free rows over the same users, items and protocol."""
    from erel_jax.benchmark.recommendation_floors import floor_records

    problem = load_problem(config, messenger)
    return floor_records(problem, command, messenger), {}
