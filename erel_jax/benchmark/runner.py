"""`erel bench`: plans the jobs, runs each in a fresh process, shows progress, and writes the report.

run(config) ─ plan ─┬─ job done before? reuse its records
                    └─ else worker process ── messages ── progress bars
          └─ records.jsonl, report.md, report.html, terminal table
"""

import collections
import os
import shutil
import signal
import sys
from pathlib import Path

from rich.console import Console

from erel_jax.artifacts import RunLock, cache_folder, check_writable
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.jobs import Job, job_fingerprint, job_folder, plan, read_result
from erel_jax.benchmark.methods import chosen_methods
from erel_jax.benchmark.progress import RunProgress
from erel_jax.benchmark.record import Record, write_records
from erel_jax.benchmark.report import print_table, write_report
from erel_jax.benchmark.report.gallery import GalleryQuery
from erel_jax.benchmark.summary import fill_scores
from erel_jax.benchmark.worker_process import WorkerSignals, run_worker
from erel_jax.errors import ConfigError, DataError, ErelError

_ERRORS = {cls.exit_code: cls for cls in reversed(ErelError.__subclasses__())}


def run(config: BenchConfig, command: str, console: Console) -> list[Record]:
    """Runs a bench from options to report.

    Args:
        config: the options.
        command: the exact command line, for the records.
        console: where progress and the table go.

    Returns:
        All records, floors first, with TPME and PSCP filled in.

    Raises:
        ErelError: whatever stopped it; finished jobs stay and the same command continues.
    """
    methods = chosen_methods(config)
    out = config.out_folder
    _check_inputs(config)  # first, so that a mistyped name leaves no empty folder behind
    check_writable(out)
    check_writable(_cache(config), "--cache")
    jobs = plan(config, methods)
    records: list[Record] = []
    galleries: dict[str, list[GalleryQuery]] = {}
    left_out: dict[str, ConfigError] = {}
    with RunLock(out), WorkerSignals() as signals, RunProgress(console, [job.name for job in jobs]) as progress:
        if config.fresh:
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
        progress.note(f"{config.task} on {config.data_name}: {len(methods)} methods × {config.seeds} seed(s) → {out}")
        for job in jobs:
            if job.method in left_out:
                progress.leave_out(job.name)
                continue
            try:
                result = _result(config, job, command, progress, signals)
            except ConfigError as error:
                # Among methods that nobody named, one that does not fit the data is no reason to stop.
                if config.methods is not None or job.kind != "method":
                    raise
                left_out[job.method] = error
                progress.leave_out(job.name, str(error))
                continue
            records += result[0]
            for method, queries in result[1].items():
                galleries.setdefault(method, queries)
    if len(left_out) == len(methods):
        raise next(iter(left_out.values()))
    records = fill_scores(records)
    write_records(out / "records.jsonl", records)
    paths = write_report(records, galleries, out)
    print_table(records, console)
    console.print(
        f"\nOpen {paths.html} in a browser for plots and examples; raw numbers are in {out / 'records.jsonl'}.\n"
        "Next: add --seeds 3 for spread, --methods to choose, or --data/--text-encoder/--image-encoder for your own.",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return records


def _result(
    config: BenchConfig, job: Job, command: str, progress: RunProgress, signals: WorkerSignals
) -> tuple[list[Record], dict[str, list[GalleryQuery]]]:
    """What a job left, of an earlier run or of this one."""
    result = None if config.fresh else read_result(config, job)
    if result is not None:
        progress.reuse(job.name)
        return result
    progress.start(job.name)
    signals.check("the run")
    _run_job(config, job, command, progress, signals)
    result = read_result(config, job)
    if result is None:
        raise ErelError(f"job {job.name} ended without a whole result in {job_folder(config, job)}.")
    progress.finish(job.name)
    return result


def _check_inputs(config: BenchConfig) -> None:
    """Refuses what cannot work before a worker is started; the rest shows in the job `prepare`."""
    for name in ("items", "images"):
        path: Path | None = getattr(config, name)
        if path is not None and not path.exists():
            raise DataError(f"--{name} got {path}, which does not exist. Check the path.")
    if config.task == "retrieval":
        from erel_jax.data.retrieval_sources import find_source

        # Pictures of the builders are hashed whole there, which the worker does.
        if config.data not in ("openmoji", "fashion"):
            find_source(config.data or "glyphs", config.images, config.items, config.image_key, config.text_key)
        return
    from erel_jax.data.item_sources import check_folder

    data = Path(config.data or "")
    if not data.exists():
        raise DataError(
            f"--data got {data}, which does not exist. Expected a TSV of `user<TAB>item item …`, an .npz file or a "
            "folder."
        )
    if data.is_dir():
        check_folder(data)
    if config.text_encoder is None and config.image_encoder is None:
        raise ConfigError(
            "--task recommendation needs something to adapt: --text-encoder with --items, or --image-encoder with "
            "--images, or both."
        )


def _cache(config: BenchConfig) -> Path:
    return config.cache if config.cache is not None else cache_folder()


def _environment(config: BenchConfig) -> dict[str, str]:
    cache = _cache(config)
    (cache / "xla").mkdir(parents=True, exist_ok=True)
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(cache / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {**defaults, **os.environ}


def _run_job(config: BenchConfig, job: Job, command: str, progress: RunProgress, signals: WorkerSignals) -> None:
    fingerprint = job_fingerprint(config, job)
    arguments = [config.to_json(), job.kind, job.method, str(job.seed), fingerprint, command]
    logs = config.out_folder / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"{job.name}.log"
    with open(log, "wb") as stream:
        code, error = run_worker(
            [sys.executable, "-m", "erel_jax.benchmark.worker", *arguments],
            _environment(config),
            stream,
            signals,
            lambda message: progress.show(job.name, message),
        )
    if code != 0:
        if "error" not in error:
            signals.check(f"job {job.name}")
        raise _worker_error(job, code, error, log)


def _worker_error(job: Job, code: int, message: dict, log: Path) -> ErelError:
    if "error" in message:
        return _ERRORS.get(message["exit_code"], ErelError)(message["error"])
    tail = collections.deque(log.read_text(errors="replace").splitlines(), 3)
    if code < 0:
        reason = f"was ended by signal {-code} ({signal.Signals(-code).name})"
        hint = " Most often that is a lack of memory: try a smaller --batch-size." if -code == signal.SIGKILL else ""
    else:
        reason, hint = f"failed with exit code {code}", ""
    last = " | ".join(line.strip() for line in tail if line.strip())
    return ErelError(f"job {job.name} {reason}.{hint} Its last words: {last or 'none'}. The whole log: {log}.")
