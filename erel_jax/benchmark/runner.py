"""`erel bench`: plans the jobs, runs each in a fresh process, shows progress, and writes the report.

run(config) ─ plan ─┬─ job done before? reuse its records
                    └─ else worker process ── messages ── progress bars
          └─ records.jsonl, report.md, report.html, terminal table
"""

import collections
import os
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from erel_jax.artifacts import RunLock, cache_folder, check_writable
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.jobs import Job, job_fingerprint, job_folder, plan, read_result
from erel_jax.benchmark.messages import parse
from erel_jax.benchmark.methods import chosen_methods
from erel_jax.benchmark.progress import RunProgress
from erel_jax.benchmark.record import Record, write_records
from erel_jax.benchmark.report import print_table, write_report
from erel_jax.benchmark.report.gallery import GalleryQuery
from erel_jax.benchmark.summary import fill_scores
from erel_jax.errors import ConfigError, ErelError

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
    check_writable(out)
    _check_inputs(config)
    jobs = plan(config, methods)
    records: list[Record] = []
    galleries: dict[str, list[GalleryQuery]] = {}
    with RunLock(out), RunProgress(console, [job.name for job in jobs]) as progress:
        progress.note(f"{config.task} on {config.data_name}: {len(methods)} methods × {config.seeds} seed(s) → {out}")
        for job in jobs:
            result = None if config.fresh else read_result(config, job)
            if result is None:
                progress.start(job.name)
                _run_worker(config, job, command, progress)
                result = read_result(config, job)
                if result is None:
                    raise ErelError(f"job {job.name} ended without a whole result in {job_folder(config, job)}.")
                progress.finish(job.name)
            else:
                progress.reuse(job.name)
            records += result[0]
            for method, queries in result[1].items():
                galleries.setdefault(method, queries)
    records = fill_scores(records)
    write_records(out / "records.jsonl", records)
    paths = write_report(records, galleries, out)
    print_table(records, console)
    console.print(
        f"\nOpen {paths.html} in a browser for plots and examples; raw numbers are in {out / 'records.jsonl'}.\n"
        "Next: add --seeds 3 for spread, --methods to choose, or --data/--text-encoder/--image-encoder for your own.",
        soft_wrap=True,
        highlight=False,
    )
    return records


def _check_inputs(config: BenchConfig) -> None:
    for name in ("items", "images"):
        path: Path | None = getattr(config, name)
        if path is not None and not path.exists():
            raise ConfigError(f"--{name} got {path}, which does not exist.")


def _environment(config: BenchConfig) -> dict[str, str]:
    cache = config.cache if config.cache is not None else cache_folder()
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


def _run_worker(config: BenchConfig, job: Job, command: str, progress: RunProgress) -> None:
    fingerprint = job_fingerprint(config, job)
    arguments = [config.to_json(), job.kind, job.method, str(job.seed), fingerprint, command]
    logs = config.out_folder / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"{job.name}.log"
    error: dict = {}
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "erel_jax.benchmark.worker", *arguments],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env=_environment(config),
        )
        with _forwarded_signals(process):
            assert process.stdout is not None
            for line in process.stdout:
                message = parse(line)
                error = message if "error" in message else error
                progress.show(job.name, message)
            code = process.wait()
    if code != 0:
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


class _forwarded_signals:
    """Passes SIGTERM and SIGUSR1 on to a worker, which saves and ends with exit code 75."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.old: dict[int, object] = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self.old[number] = signal.signal(number, lambda n, _: self.process.send_signal(n))
        return self

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
