"""`erel embed`: one worker of any number that turn a source into shards of vectors."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from erel_jax.catalogs.config import EmbedConfig
from erel_jax.catalogs.encode import Meter, encode_shard, time_shape
from erel_jax.catalogs.inputs import Preparation
from erel_jax.catalogs.leases import Leases
from erel_jax.catalogs.models import load_embedder, modalities_of
from erel_jax.catalogs.plan import Plan, agree, check_unchanged
from erel_jax.catalogs.report import ProgressShown, estimate, print_summary
from erel_jax.catalogs.shards import LEASES, LEFT_OUT, done_shards, finish, write_shard
from erel_jax.data.catalog_sources import Source, open_source
from erel_jax.errors import ConfigError, DataError
from erel_jax.folders import check_writable
from erel_jax.training.signals import StopFlag

MOST_DECODERS = 16
POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What a worker did.

    Attributes:
        result: the finished catalog as `shards.finish` describes it; None where other workers go on.
        meter: what this worker's own part took.
        shards: how many shards it stored.
        compilations: programs that were compiled, one per shape of a batch.
    """

    result: dict[str, Any] | None
    meter: Meter
    shards: int
    compilations: int


def embed(config: EmbedConfig, console: Console) -> Embedded:
    """Embeds what no other worker has embedded yet.

    Args:
        config: what a person asked for.
        console: where estimate, progress and summary go.

    Raises:
        ConfigError: options that do not fit, or an output folder of another job or of the data.
        DataError: the source cannot be read, has an id twice, changes meanwhile, or nothing in it could be embedded.
        CheckpointError: the model's weights do not fit.
        PreemptedError: asked to stop; finished shards are kept.
    """
    _keep_apart(config)
    keys = {name: getattr(config, name) for name in ("id_key", "image_key", "text_key")}
    source = open_source(config.data, config.images, **keys)
    modality = choose_modality(config, source)
    check_writable(config.out)  # after the data and the model's kind: a mistyped name leaves no empty folder behind
    options = {name: getattr(config, name) for name in ("precision", "pooling", "prompt", "max_length", "dims")}
    embedder = load_embedder(config.model, modality, **options)
    plan = agree(config, source, embedder)
    meter, stored = Meter(), 0
    with (
        StopFlag() as stop,
        Preparation(embedder, source, batch=config.batch, decoders=config.decoders or decoders()) as preparation,
    ):
        if len(done_shards(config.out, plan)) < len(plan.places):
            _warm_up(config, plan, source, preparation, meter, console)
        with ProgressShown(config.out, plan, console) as shown:

            def after(rows: int) -> None:
                shown.advance(rows)
                stop.check("embedding")

            for number in _shards_to_do(config, plan, console, lambda: stop.check("embedding")):
                begun, compiling = time.perf_counter(), meter.compile_seconds
                place = plan.places[number]
                rows = itertools.islice(source.rows(place), plan.shard_rows(number))
                shard = encode_shard(preparation, rows, meter, after)
                check_unchanged(plan, source)
                stored += write_shard(config.out, plan, number, shard)
                meter.seconds += time.perf_counter() - begun - (meter.compile_seconds - compiling)
                shown.shard_done()
    whole = len(done_shards(config.out, plan)) == len(plan.places)
    if whole:
        check_unchanged(plan, source)
    result = finish(config.out, plan) if whole else None
    done = Embedded(result=result, meter=meter, shards=stored, compilations=embedder.step.compilations)
    print_summary(config, plan, done, preparation.cut, console)
    if result is not None and not result["kept"]:
        raise DataError(
            f"none of {plan.rows} rows could be embedded. {config.out / 'left_out.jsonl'} says why, row by row."
        )
    return done


def _keep_apart(config: EmbedConfig) -> None:
    """Refuses an output folder whose list of rows left out would be taken for a table of the data."""
    out, data = (Path(os.path.realpath(path)) for path in (config.out, config.data))
    if data in (out, out / LEFT_OUT):
        raise ConfigError(
            f"--out {config.out} would put {LEFT_OUT} in the place of, or beside, the data {config.data}, where it is "
            "read as a table. Choose another --out, such as a folder below it."
        )


def choose_modality(config: EmbedConfig, source: Source) -> str:
    """Pictures where the source has them and the model reads them, else texts, unless a person says otherwise.

    Raises:
        ConfigError: the source has nothing that the model reads.
    """
    reads = modalities_of(config.model)
    has = [name for name in ("image", "text") if getattr(source.columns, name) is not None]
    wanted = has if config.modality == "auto" else [config.modality]
    fitting = [name for name in wanted if name in reads and name in has]
    if not fitting:
        raise ConfigError(
            f"{config.model} reads {' and '.join(reads)}, {source.path} has {' and '.join(has)}, and --modality is "
            f"{config.modality}: nothing is left to embed. Choose another model or --modality."
        )
    return fitting[0]


def decoders() -> int:
    """Threads that decode pictures by default."""
    return min(MOST_DECODERS, os.cpu_count() or 1)


def _warm_up(
    config: EmbedConfig, plan: Plan, source: Source, preparation: Preparation, meter: Meter, console: Console
) -> None:
    """Prepares and encodes one batch, to compile and to estimate."""
    first = min(set(range(len(plan.places))) - set(done_shards(config.out, plan)))
    begun = time.perf_counter()
    rows = list(itertools.islice(source.rows(plan.places[first]), min(config.batch, plan.shard_rows(first))))
    batch = next(preparation.batches(rows), None)
    preparing = time.perf_counter() - begun
    preparation.cut = 0
    if batch is not None:
        time_shape(preparation.embedder, batch, meter)
    estimate(config, plan, source, preparation.embedder, batch, preparing, meter, console)


def _shards_to_do(config: EmbedConfig, plan: Plan, console: Console, check: Callable[[], None]) -> Iterator[int]:
    """Shards that this worker holds the lease of, one after the other, until there are none left for it."""
    leases = Leases(config.out / LEASES, config.lease_seconds)
    mine, waited = set(range(config.worker or 0, len(plan.places), config.workers or 1)), False
    while remaining := sorted(mine - set(done_shards(config.out, plan))):
        idle = True
        for number in remaining:
            check()
            name = plan.shard_name(number)
            if (config.out / name).is_dir():
                continue
            lease = leases.take(name)
            if lease is None:
                continue
            with lease:
                if not (config.out / name).is_dir():
                    idle = False
                    yield number
        if idle:
            if not waited:
                held = plan.shard_name(remaining[0])
                console.print(f"Waiting for {leases.holder(held)}, which has {held}.", highlight=False)
            waited = True
            time.sleep(POLL_SECONDS)
