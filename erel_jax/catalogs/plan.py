"""What all workers of one output folder agree on: the source, the model, the options, and where every shard begins.

The plan is written first, by whoever comes first. Everybody else reads it and refuses to go on with another source,
model or option, naming both.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from erel_jax.catalogs.config import EmbedConfig
from erel_jax.catalogs.leases import create_once
from erel_jax.catalogs.models import Embedder
from erel_jax.data.catalog_sources import Source, scan
from erel_jax.data.catalog_tables import Columns, Place
from erel_jax.errors import ConfigError, CorruptArtifactError, DataError

PLAN, FORMAT = "plan.json", 1
OPTIONS = ("precision", "prompt", "store", "shard_rows")
"""Options besides the model that decide what stands in a shard."""
DESCRIBED: Mapping[str, Mapping[str, Any]] = {
    "source": dict.fromkeys(("path", "images", "kind", "fingerprint"), str)
    | dict.fromkeys(("rows", "size", "modified"), int)
    | {"columns": dict},
    "model": dict.fromkeys(("name", "space", "tower", "modality"), str)
    | {"width": int, "pooling": str | None, "max_length": int | None},
    "options": dict.fromkeys(("precision", "store"), str) | {"prompt": str | None, "shard_rows": int},
}
"""What the parts of a plan's file hold, and of which type."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An embedding job.

    Attributes:
        source: `path`, `images`, `kind`, `columns`, `fingerprint`, `rows`, and `size` and `modified` of the file.
        model: `name`, `space` and `tower` (fingerprints), `modality`, `width`, `pooling`,
            `max_length`.
        options: what else decides the vectors.
        places: where every shard begins.
    """

    source: dict[str, Any]
    model: dict[str, Any]
    options: dict[str, Any]
    places: tuple[Place, ...]

    @property
    def rows(self) -> int:
        """Rows of the source, usable or not."""
        return self.source["rows"]

    def shard_name(self, number: int) -> str:
        """Folder of a shard, such as `shard-00007-of-00012`."""
        return f"shard-{number:05d}-of-{len(self.places):05d}"

    def shard_rows(self, number: int) -> int:
        """Rows of a shard."""
        every = self.options["shard_rows"]
        return min(every, self.rows - number * every)


def agree(config: EmbedConfig, source: Source, embedder: Embedder) -> Plan:
    """The plan of an output folder: the one that is there, or a new one.

    Args:
        config: what this worker was asked for.
        source, embedder: what it found.

    Raises:
        ConfigError: the folder's plan has another source, model or option.
        DataError: the source has no rows, or an id twice.
        CorruptArtifactError: the plan that is there cannot be read.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / PLAN
    options: dict[str, Any] = {name: getattr(config, name) for name in OPTIONS}
    model = {
        "name": _absolute(config.model),
        "space": embedder.space,
        "tower": embedder.loaded.fingerprint,
        "modality": embedder.modality,
        "width": embedder.width,
        "pooling": config.pooling,
        "max_length": embedder.buckets[-1] if embedder.buckets else None,
    }
    if not path.exists():
        found = scan(source, config.shard_rows)
        about = {
            **_stamp(source),
            "path": str(source.path.absolute()),
            "images": str(source.images.absolute()),
            "kind": source.kind,
            "columns": asdict(source.columns),
            "fingerprint": found.fingerprint,
            "rows": found.rows,
        }
        written = Plan(source=about, model=model, options=options, places=found.places)
        create_once(path, json.dumps({"format": FORMAT, **asdict(written)}, indent=1) + "\n")
    plan = read_plan(config.out)
    _compare(config, plan, source, model, options)
    return plan


def check_unchanged(plan: Plan, source: Source) -> None:
    """Makes sure that what was just read from a table is what the plan is about.

    Raises:
        DataError: the table changed since it was opened.
    """
    if not source.is_as_opened and source.fingerprint() != plan.source["fingerprint"]:
        raise DataError(
            f"the table changed while it was read: {source.path}. Shards of its former content are kept; put that back "
            "and run again, or run again with another --out."
        )


def read_plan(folder: Path) -> Plan:
    """The plan of an output folder of `erel embed`.

    Raises:
        ConfigError: there is none.
        CorruptArtifactError: it cannot be read.
    """
    path = folder / PLAN
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("format") != FORMAT:
            raise ValueError(f"another format than {FORMAT}")
        parts = {part: check_described(part, document[part]) for part in DESCRIBED}
        every, rows = parts["options"]["shard_rows"], parts["source"]["rows"]
        places = tuple(Place(**place) for place in document["places"])
        if every < 1 or rows < 1 or len(places) != -(-rows // every):
            raise ValueError(f"{len(places)} places for {rows} rows in shards of {every}")
        return Plan(**parts, places=places)
    except FileNotFoundError:
        raise ConfigError(f"{folder} has no {PLAN}: expected the output folder of `erel embed`.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(f"{path} cannot be read ({error}). Embed into another folder.") from error


def check_described(part: str, found: Any) -> dict[str, Any]:
    """A part of a file that describes a plan (see `DESCRIBED`), as it was written.

    Raises:
        TypeError, ValueError: something in it is missing or of another type.
    """
    for name, kind in DESCRIBED[part].items():
        if name not in found:
            raise ValueError(f"{part} lacks {name!r}")
        if not isinstance(found[name], kind):
            raise TypeError(f"{name!r} of {part} is {found[name]!r}")
    if part == "source":
        columns = asdict(Columns(**found["columns"]))
        if not all(isinstance(name, str | None) for name in columns.values()):
            raise TypeError(f"'columns' of source are {columns}")
    return dict(found)


def _compare(config: EmbedConfig, plan: Plan, source: Source, model: dict[str, Any], options: dict[str, Any]) -> None:
    advice = f"Give the same as before, or another --out than {config.out}."
    if plan.model["space"] != model["space"] or plan.model["modality"] != model["modality"]:
        raise ConfigError(f"{config.out} was begun with {_named(plan.model)}; this is {_named(model)}. {advice}")
    differing = [name for name in options if plan.options[name] != options[name]]
    if differing:
        was, now = ({name: side[name] for name in differing} for side in (plan.options, options))
        raise ConfigError(f"{config.out} was begun with {was}; this is {now}. {advice}")
    if plan.model["tower"] != model["tower"] or plan.model["max_length"] != model["max_length"]:
        raise ConfigError(
            f"{config.out} was begun with tokenizer, preprocessing or --max-length of {plan.model['tower'][:12]} "
            f"({plan.model['max_length']} tokens); this is {model['tower'][:12]} ({model['max_length']}). {advice}"
        )
    columns = asdict(source.columns)
    if plan.source["columns"] != columns:
        raise ConfigError(f"{config.out} was begun with columns {plan.source['columns']}; this is {columns}. {advice}")
    same_file = source.kind != "pictures" and {name: plan.source[name] for name in _stamp(source)} == _stamp(source)
    if not same_file and (fingerprint := source.fingerprint()) != plan.source["fingerprint"]:
        raise ConfigError(
            f"{config.out} was begun with data {plan.source['path']} (fingerprint {plan.source['fingerprint'][:12]}); "
            f"this is {source.path} ({fingerprint[:12]}). {advice}"
        )


def _named(model: dict[str, Any]) -> str:
    return f"the {model['modality']} encoder of {model['name']} (fingerprint {model['space'][:12]})"


def _stamp(source: Source) -> dict[str, Any]:
    """What shows without reading a table that it is still the same file."""
    if source.kind == "pictures":
        return {"size": len(source.names), "modified": 0}
    status = source.path.stat()
    return {"size": status.st_size, "modified": status.st_mtime_ns}


def _absolute(model: str) -> str:
    return str(Path(model).absolute()) if Path(model).is_dir() else model
