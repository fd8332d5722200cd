"""The command line: `erel bench` compares adaptation methods; `erel embed`, `index` and `search` make a catalog
searchable; `erel doctor` examines the installation."""

import dataclasses
import io
import os
import shlex
import sys
from collections.abc import Sequence

from erel_jax.errors import ConfigError, ErelError


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Examine the installation: versions, device, memory settings, caches, offline flags, fast number formats."""


def bench(config, arguments: Sequence[str]) -> int:
    """Compares adaptation methods by quality and cost and writes a report; returns the exit code."""
    from rich.console import Console

    from erel_jax.benchmark.runner import run

    run(config, shlex.join(["erel", *arguments]), Console())
    return 0


def embed(config) -> int:
    """Turns pictures or texts into vectors on disk; returns the exit code."""
    from rich.console import Console

    from erel_jax.catalogs.embed import embed as run

    run(config, Console())
    return 0


def index(config) -> int:
    """Makes a searchable index of such vectors; returns the exit code."""
    from rich.console import Console

    from erel_jax.catalogs.build import build

    build(config, Console())
    return 0


def search(config) -> int:
    """Finds the items of an index that are nearest to a query; returns the exit code."""
    from rich.console import Console

    from erel_jax.catalogs.search import search as run

    run(config, Console())
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
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or pipe with a small alphabet shows escapes instead of ending the run.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(given)
    except ErelError as error:
        if os.environ.get("EREL_TRACEBACK"):
            raise
        print(f"erel: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read the output has gone; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ErelError.exit_code
    except OSError as error:
        if os.environ.get("EREL_TRACEBACK"):
            raise
        print(f"erel: {error}. Check free space and permissions; finished jobs are kept.", file=sys.stderr)
        return ErelError.exit_code
    except KeyboardInterrupt:
        print("erel: stopped; run the same command again to continue.", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    import tyro

    from erel_jax.benchmark.config import BenchConfig
    from erel_jax.catalogs.config import EmbedConfig, IndexConfig, SearchConfig

    for argument in arguments:
        if argument.encode("utf-8", "replace").decode() != argument:
            raise ConfigError(f"got the argument {argument!r}, which is not UTF-8. Rename what it names.")
    commands = {
        "bench": BenchConfig,
        "embed": EmbedConfig,
        "index": IndexConfig,
        "search": SearchConfig,
        "doctor": DoctorConfig,
    }
    if arguments[:1] == ["search"]:
        arguments = ["--k" if argument == "-k" else argument for argument in arguments]
    chosen = tyro.extras.subcommand_cli_from_dict(commands, prog="erel", description=DESCRIPTION, args=arguments)
    for kind, run in ((EmbedConfig, embed), (IndexConfig, index), (SearchConfig, search)):
        if isinstance(chosen, kind):
            return run(chosen)
    return bench(chosen, arguments) if isinstance(chosen, BenchConfig) else doctor()


DESCRIPTION = """Efficient representation learning for multimodal retrieval and recommendation.

Start with `erel bench`: it compares adaptation methods on an embedded data set, offline, and writes report.html.
`erel embed`, `erel index` and `erel search` turn your pictures or texts into vectors and find them again.
`erel doctor` tells whether the installation and the device are what you think they are."""


if __name__ == "__main__":
    sys.exit(main())
