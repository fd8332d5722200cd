"""The command line: `erel bench` compares adaptation methods, `erel doctor` examines the installation."""

import dataclasses
import os
import shlex
import sys

from erel_jax.errors import ErelError


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Examine the installation: versions, device, memory settings, caches, offline flags, fast number formats."""


def bench(config) -> int:
    """Compares adaptation methods by quality and cost and writes a report; returns the exit code."""
    from rich.console import Console

    from erel_jax.benchmark.runner import run

    run(config, shlex.join(["erel", *sys.argv[1:]]), Console())
    return 0


def doctor() -> int:
    """Examines the installation; returns 1 if something is broken."""
    from rich.console import Console

    from erel_jax.doctor import diagnose, print_diagnosis

    diagnosis = diagnose()
    print_diagnosis(diagnosis, Console())
    return 1 if diagnosis.broken else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `erel`; returns the exit code (documented in docs/exit_codes.md)."""
    import tyro

    from erel_jax.benchmark.config import BenchConfig

    commands = {"bench": BenchConfig, "doctor": DoctorConfig}
    try:
        chosen = tyro.extras.subcommand_cli_from_dict(commands, prog="erel", description=DESCRIPTION, args=arguments)
        return bench(chosen) if isinstance(chosen, BenchConfig) else doctor()
    except ErelError as error:
        if os.environ.get("EREL_TRACEBACK"):
            raise
        print(f"erel: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("erel: stopped; run the same command again to continue.", file=sys.stderr)
        return 130


DESCRIPTION = """Efficient representation learning for multimodal retrieval and recommendation.

Start with `erel bench`: it compares adaptation methods on an embedded data set, offline, and writes report.html.
`erel doctor` tells whether the installation and the device are what you think they are."""


if __name__ == "__main__":
    sys.exit(main())
