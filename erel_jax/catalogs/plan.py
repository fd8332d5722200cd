"""What all workers of one output folder agree on: the source, the model, the options, and where every shard begins.

The plan is written first, by whoever comes first. Everybody else reads it and refuses to go on with another source,
model or option, naming both.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from erel_jax.catalogs.config import EmbedConfig
from erel_jax.catalogs.leases import create_once
from erel_jax.catalogs.models import Embedder
from erel_jax.data.catalog_sources import Source, scan
from erel_jax.data.catalog_tables import Place
from erel_jax.errors import ConfigError, CorruptArtifactError

PLAN, FORMAT = "plan.json", 1
OPTIONS = ("precision", "prompt", "store", "shard_rows")
"""Options besides the model that decide what stands in a shard."""


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
        return Plan(**{**document, "places": tuple(Place(**place) for place in document["places"])})
    except FileNotFoundError:
        raise ConfigError(f"{folder} has no {PLAN}: expected the output folder of `erel embed`.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(f"{path} cannot be read ({error}). Embed into another folder.") from error


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
