"""The process that does one job: `python -m erel_jax.benchmark.worker CONFIG KIND METHOD SEED FINGERPRINT COMMAND`.

A fresh process per job makes its peak memory its own and keeps one method's compiled programs out of another's. The
worker talks to the runner through `benchmark.messages` and leaves its result as the job's artifact directory.
"""

import os
import sys
import traceback

from erel_jax.benchmark.config import BenchConfig
from erel_jax.benchmark.jobs import Job, write_result
from erel_jax.benchmark.messages import Messenger
from erel_jax.errors import ErelError
from erel_jax.host_memory import keep_freed_memory


def main(arguments: list[str]) -> int:
    """Runs the job named by the arguments and returns the exit code."""
    config_json, kind, method, seed, fingerprint, command = arguments
    config, job = BenchConfig.from_json(config_json), Job(kind, method, int(seed))
    messenger = Messenger()
    try:
        records, galleries = run_job(config, job, command, messenger)
        write_result(config, job, fingerprint, records, galleries)
    except ErelError as error:
        if os.environ.get("EREL_TRACEBACK"):
            traceback.print_exc()
        messenger.error(str(error), error.exit_code)
        return error.exit_code
    except OSError as error:  # most often a full disk
        traceback.print_exc()
        messenger.error(f"job {job.name}: {error}", ErelError.exit_code)
        return ErelError.exit_code
    return 0


def run_job(config: BenchConfig, job: Job, command: str, messenger: Messenger):
    """Does a job in this process; returns its records and galleries by method."""
    if config.task == "retrieval":
        from erel_jax.benchmark import retrieval as task
    else:
        from erel_jax.benchmark import recommendation as task
    if job.kind == "prepare":
        task.prepare(config, messenger)
        return [], {}
    if job.kind == "floors":
        return task.run_floors(config, command, messenger)
    return task.run_method(config, job.method, job.seed, command, messenger)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(sys.argv[1:]))
