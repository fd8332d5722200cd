"""The command line: `erel bench` compares adaptation methods; `erel embed`, `index` and `search` make a catalog
searchable; `erel doctor` examines the installation."""

import ast
import dataclasses
import inspect
import io
import itertools
import os
import shlex
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from erel_jax.errors import ConfigError, ErelError, suggest


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Examine the installation: versions, device, memory settings, caches, offline flags, fast number formats.

    Each line has a state: ok, note (worth knowing), warning (works, but probably not as meant) or broken (commands will
    fail); advice follows below the table. Ends with code 1 if something is broken. Nothing is sent anywhere.
    """


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
    commands: dict[str, tuple[type, Callable[[Any], int]]] = {
        "bench": (BenchConfig, lambda config: bench(config, arguments)),
        "embed": (EmbedConfig, embed),
        "index": (IndexConfig, index),
        "search": (SearchConfig, search),
        "doctor": (DoctorConfig, lambda config: doctor()),
    }
    if arguments and arguments[0] in commands:
        kind, run = commands[arguments[0]]
        return run(_parsed(kind, *arguments))
    if arguments and not arguments[0].startswith("-"):
        raise ConfigError(f"unknown command {arguments[0]!r}. {suggest(arguments[0], commands)} See `erel --help`.")
    # What is left is `--help`, options without a command, or nothing: tyro lists the commands and ends the process.
    listed = {name: _as_given(kind) for name, (kind, _) in commands.items()}
    tyro.extras.subcommand_cli_from_dict(listed, prog="erel", description=DESCRIPTION, args=arguments)
    raise ConfigError(f"got {arguments}, expected a command first. {suggest('', commands)} See `erel --help`.")


def _parsed(kind: type, name: str, *arguments: str) -> Any:
    """The options of the command `name`, a `kind`; what is wrong with them ends with a hint to the command's own help.

    Raises:
        ConfigError: options that `kind` refuses.
        SystemExit: after `--help`, and after what tyro refuses (code 2).
    """
    import tyro

    given = ["--k" if name == "search" and argument == "-k" else argument for argument in arguments]
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_optional)
    with registry:
        read = tyro.cli(_as_given(kind), prog=f"erel {name}", args=given)
    try:
        return kind(**{field.name: getattr(read, field.name) for field in dataclasses.fields(kind)})
    except ConfigError as error:
        raise ConfigError(f"{error} See `erel {name} --help`.") from error


def _as_given(kind: type) -> type:
    """A dataclass of the same options that checks nothing, for tyro, which words what a class refuses its own way.

    Its help says nothing about the default None: where leaving an option out means something, the help text says what.
    """
    from tyro.conf import arg

    texts = _texts(kind)
    fields: list[Any] = []
    for field in dataclasses.fields(kind):
        hint = "" if field.default is None else None
        explained = Annotated[field.type, arg(help=texts.get(field.name), help_behavior_hint=hint)]
        fields.append((field.name, explained, dataclasses.field(default=field.default)))
    text = "\n\n".join(" ".join(part.split()) for part in (kind.__doc__ or "").split("\n\n"))
    namespace = {"__doc__": text, "__post_init__": lambda self: None}
    return dataclasses.make_dataclass(
        kind.__name__, fields, bases=(kind,), namespace=namespace, frozen=True, kw_only=True
    )


def _texts(kind: type) -> dict[str, str]:
    """The texts below the fields of a dataclass, each as one line: tyro alone would keep the source's line breaks."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, SyntaxError):  # an installation without sources
        return {}
    found = {}
    parts = body.body if isinstance(body, ast.ClassDef) else []
    for field, text in itertools.pairwise(parts):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found


def _optional(info: Any) -> Any:
    """tyro's rule for `X | None`: left out or an X, so that `--text None` searches for the word None."""
    import tyro

    kinds = [kind for kind in typing.get_args(info.type) if kind is not type(None)]
    if info.type_origin not in (typing.Union, types.UnionType) or len(kinds) != 1 or kinds[0] not in METAVARS:
        return None
    kind = kinds[0]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=METAVARS[kind],
        instance_from_str=lambda given: kind(given[0]),
        is_instance=lambda value: value is None or isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


METAVARS: dict[Any, str] = {str: "STR", int: "INT", float: "FLOAT", Path: "PATH"}

DESCRIPTION = """Efficient representation learning for multimodal retrieval and recommendation.

Start with `erel bench`: it compares adaptation methods on an embedded data set, offline, and writes report.html.
`erel embed`, `erel index` and `erel search` turn your pictures or texts into vectors and find them again.
`erel doctor` tells whether the installation and the device are what you think they are."""


if __name__ == "__main__":
    sys.exit(main())
