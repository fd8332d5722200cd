"""The jobs of a bench run and where their results lie.

A run is a list of jobs, each done by a fresh process so that its peak memory is its own: `prepare` (data and base
encoders), `floors`, and one job per method and seed. A finished job is an artifact directory
`<out>/jobs/<name>/` with `records.jsonl` and `gallery.json`; its manifest carries the fingerprint of everything that
shaped it, so a run started again reuses what still applies and repeats the rest.
"""

import contextlib
import dataclasses
import hashlib
from functools import lru_cache
from pathlib import Path

from erel_jax import __version__
from erel_jax.artifacts import ArtifactDir, verify_manifest
from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.record import Record, read_records, write_records
from erel_jax.benchmark.report.gallery import GalleryQuery, read_galleries, write_galleries
from erel_jax.errors import CheckpointError, ConfigError, DataError

KIND = "bench-job"


@dataclasses.dataclass(frozen=True)
class Job:
    """One unit of work: `kind` is "prepare", "floors" or "method"."""

    kind: str
    method: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Folder name of the job."""
        return f"{self.method}-seed{self.seed}" if self.kind == "method" else self.kind


def plan(config: BenchConfig, methods: list[str]) -> list[Job]:
    """The jobs of a run, in order: seeds vary slowest, so that one seed of every method comes first."""
    jobs = [Job("prepare"), Job("floors")]
    return jobs + [Job("method", method, seed) for seed in range(config.seeds) for method in methods]


def job_folder(config: BenchConfig, job: Job) -> Path:
    """Where a job's result lies."""
    return config.out_folder / "jobs" / job.name


def job_fingerprint(config: BenchConfig, job: Job) -> str:
    """A digest of the options, the inputs' sizes and times, the job and the package's own source."""
    parts = [config.fingerprint(), job.name, __version__, source_digest()]
    for path in (config.data, config.items, config.images, config.text_encoder, config.image_encoder):
        if path is not None:
            parts += _stamps(Path(path))
    if config.task == "recommendation" and config.data is not None:
        from erel_jax.data.item_sources import further_folders

        parts += [stamp for folder in further_folders(config.data) for stamp in _stamps(folder)]
    if config.task == "retrieval" and config.data is not None:
        from erel_jax.data.retrieval_sources import NAMES, find_source

        # The pictures that a table names lie anywhere. What is wrong with a source, the job `prepare` says.
        if config.data not in NAMES:
            with contextlib.suppress(DataError, ConfigError):
                parts.append(
                    find_source(config.data, config.images, config.items, config.image_key, config.text_key).recipe
                )
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _stamps(path: Path) -> list[str]:
    """Size and time of a file, or of the files in a folder: editing one leaves the folder's own time as it was."""
    if path.is_dir():
        files = [*(entry for entry in path.iterdir() if entry.is_file()), *path.glob("*/config.json")]
    else:
        files = [path] if path.is_file() else []
    stats = [(file, file.stat()) for file in sorted(files)]
    return [f"{file}:{stat.st_size}:{stat.st_mtime_ns}" for file, stat in stats]


@lru_cache(maxsize=1)
def source_digest() -> str:
    """A digest of the package's Python files: results of other code are not reused."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_result(
    config: BenchConfig, job: Job, fingerprint: str, records: list[Record], galleries: dict[str, list[GalleryQuery]]
) -> None:
    """Stores a finished job's records and its examples by method.

    `fingerprint` is the `job_fingerprint` of when the job was started: inputs may have changed since.
    """
    folder = job_folder(config, job)
    metadata = {"fingerprint": fingerprint}
    with ArtifactDir(folder, kind=KIND, metadata=metadata, overwrite=True) as artifact:
        write_records(artifact.file("records.jsonl"), records)
        write_galleries(artifact.file("gallery.json"), galleries)


def read_result(config: BenchConfig, job: Job) -> tuple[list[Record], dict[str, list[GalleryQuery]]] | None:
    """A finished job's result, or None when there is none that is whole and still applies."""
    folder = job_folder(config, job)
    try:
        manifest = verify_manifest(folder, kind=KIND)
    except CheckpointError:
        return None
    if manifest.metadata.get("fingerprint") != job_fingerprint(config, job):
        return None
    records = read_records(folder / "records.jsonl") if (folder / "records.jsonl").stat().st_size else []
    return records, read_galleries(folder / "gallery.json")
