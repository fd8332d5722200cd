"""`erel index`: the vectors of a catalog to a searchable index that knows whose vectors it holds."""

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from erel_jax.artifacts import check_replaceable, write_text_atomic
from erel_jax.catalogs.config import IndexConfig
from erel_jax.catalogs.models import modalities_of
from erel_jax.catalogs.plan import check_described
from erel_jax.catalogs.shards import Catalog, read_catalog
from erel_jax.errors import ConfigError, CorruptArtifactError, ErelError
from erel_jax.folders import check_writable
from erel_jax.retrieval import Index, build_index, save_index
from erel_jax.retrieval.codes import (
    Binary,
    Code,
    Float32,
    Int8PerVector,
    eden,
    int8_per_dimension,
    inverted,
    product,
    residual,
)
from erel_jax.retrieval.folder import KIND
from erel_jax.retrieval.index import TOP
from erel_jax.retrieval.streamed import write_index

ORIGIN = "catalog.json"
FITTED_ON = 50_000
"""Rows that a code with parameters is fitted on."""
RESIDENT_BYTES, SAMPLED = 2**31, 100_000
"""Vectors of more bytes than that are never in memory together; so many rows are then measured on."""

CODES: Mapping[str, Callable[[np.ndarray], Code]] = {
    "float32": lambda vectors: Float32(vectors.shape[1]),
    "int8": lambda vectors: Int8PerVector(vectors.shape[1]),
    "int8_per_dimension": lambda vectors: int8_per_dimension(_sample(vectors)),
    "eden8": lambda vectors: eden(vectors.shape[1], 8),
    "eden4": lambda vectors: eden(vectors.shape[1], 4),
    "eden2": lambda vectors: eden(vectors.shape[1], 2),
    "eden1": lambda vectors: eden(vectors.shape[1], 1),
    "binary": lambda vectors: Binary(vectors.shape[1]),
    "product": lambda vectors: product(_sample(vectors), _parts(vectors), rotation="fitted"),
    "residual": lambda vectors: residual(_sample(vectors), _parts(vectors)),
    "lists_int8": lambda vectors: _in_lists(_sample(vectors), len(vectors)),
}
"""Codes by the names that `erel index --code` knows; a new one is a line here and in `IndexConfig`."""


def _sample(vectors: np.ndarray) -> np.ndarray:
    return vectors[:: -(-len(vectors) // FITTED_ON)]


def _parts(vectors: np.ndarray) -> int:
    """Bytes of a fitted code: one for 8 dimensions, or for as many fewer as divide the width."""
    width = vectors.shape[1]
    return next(width // size for size in range(min(8, width), 0, -1) if width % size == 0)


def _in_lists(sample: np.ndarray, rows: int) -> Code:
    """Twice as many lists as the square root of the rows, an eighth of them probed."""
    lists = max(1, min(2 * math.isqrt(rows), len(sample) // 4))
    return inverted(sample, lists, probes=max(1, lists // 8))


def build(config: IndexConfig, console: Console) -> Index:
    """Builds, measures and saves an index.

    Args:
        config: what a person asked for.
        console: where the measurements go.

    Raises:
        ConfigError: the output folder is there already, holds something else, contains or lies inside `vectors`, or
            cannot be written, or `vectors` is no output of `erel embed`.
        DataError: the embedding is not finished, or empty.
        CorruptArtifactError: a shard is damaged.
    """
    out, vectors = (Path(os.path.realpath(path)) for path in (config.out, config.vectors))
    if out.is_relative_to(vectors) or vectors.is_relative_to(out):
        raise ConfigError(
            f"--out {config.out} equals, contains or lies inside --vectors {config.vectors}, expected another folder: "
            "the vectors could be lost. Choose one beside them."
        )
    if config.out.exists() and not config.out.is_dir():
        raise ConfigError(f"{config.out} is a file, expected a folder for the index. Choose another --out.")
    if config.out.exists() and any(config.out.iterdir()) and not config.overwrite:
        raise ConfigError(f"{config.out} is there already. Choose another --out, or replace it with --overwrite.")
    check_replaceable(config.out, KIND)
    check_writable(out.parent)
    catalog = read_catalog(config.vectors)
    rows, width = len(catalog.ids), catalog.plan.model["width"]
    console.print(f"{rows:,} vectors of {width} dimensions, code {config.code}.", highlight=False)
    if 4 * rows * width <= RESIDENT_BYTES:
        index = _built(config, catalog, catalog.ids, catalog.vectors)
        save_index(config.out, index, overwrite=True)
    else:
        index = _streamed(config, catalog, console)
    write_text_atomic(config.out / ORIGIN, json.dumps(_origin(catalog), indent=1) + "\n")
    _print_measured(config, index, _readable(catalog.plan.model), console)
    return index


def _built(config: IndexConfig, catalog: Catalog, ids: np.ndarray, vectors: np.ndarray) -> Index:
    try:
        code = CODES[config.code](vectors)
    except ConfigError as error:  # worded for those who choose sample and bits themselves
        raise ConfigError(
            f"--code {config.code} cannot be fitted to the {len(vectors):,} vectors of {config.vectors}: {error} "
            "Here: take another --code, such as int8 or eden4, or embed more rows."
        ) from error
    return build_index(
        ids,
        vectors,
        code=code,
        keep_vectors=config.keep_vectors,
        wanted_recall=config.recall,
        metric="cosine",
        made_by=catalog.plan.model["space"],
    )


def _streamed(config: IndexConfig, catalog: Catalog, console: Console) -> Index:
    """Fits and measures on rows spread over the catalog, then encodes the shards one by one into files.

    Returns:
        The index of the sample, whose code and measurements those of the whole are told by.
    """
    every = -(-len(catalog.ids) // SAMPLED)
    sampled, start = [], 0
    for block in catalog.blocks():
        sampled.append(block[-start % every :: every].copy())
        start += len(block)
    index = _built(config, catalog, catalog.ids[::every], np.concatenate(sampled))
    console.print(
        f"Too large for memory: encoded shard by shard. What follows was measured on {len(index):,} of the rows, where "
        "recall is higher and search faster than among all.",
        highlight=False,
    )
    about: dict[str, Any] = {"metric": index.metric, "made_by": index.made_by, "keep_vectors": config.keep_vectors}
    write_index(config.out, catalog.ids, catalog.blocks(), code=index.code, overwrite=True, **about)
    return index


def read_origin(folder: Path) -> dict[str, Any]:
    """Which model and source an index of `erel index` came from: `model` and `source` as in `plan.Plan`.

    Raises:
        CorruptArtifactError: the file that says so is damaged.
    """
    path = folder / ORIGIN
    try:
        document = json.loads(path.read_text("utf-8"))
        return {part: check_described(part, document[part]) for part in ("model", "source")}
    except FileNotFoundError:
        return {"model": {}, "source": {}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(f"{path} cannot be read ({error}). Build the index again.") from error


def _origin(catalog: Catalog) -> dict[str, Any]:
    return {"model": catalog.plan.model, "source": catalog.plan.source, "options": catalog.plan.options}


def _readable(model: Mapping[str, Any]) -> list[str]:
    """What the catalog's encoder reads, as far as it is still where it was."""
    try:
        return modalities_of(model["name"])
    except ErelError:
        return [model["modality"]]


def _print_measured(config: IndexConfig, index: Index, reads: Sequence[str], console: Console) -> None:
    measured = index.measured
    assert measured is not None
    table = Table("measured", "")
    table.add_row("recall@10 against exact search", f"{measured.recall:.3f} (asked for: {config.recall:g})")
    table.add_row("bytes per vector", f"{measured.bytes_per_vector:,}")
    table.add_row("built in", f"{measured.build_seconds:.2f} s")
    table.add_row("one query", f"{1e3 * measured.query_seconds:.1f} ms")
    table.add_row("encoder", str(index.made_by)[:12])
    console.print(table)
    if len(index) <= TOP:
        console.print(f"Of {len(index)} vectors every code finds all: this recall says nothing.", highlight=False)
    if measured.recall < config.recall:
        advice = better_recall(config.code, config.keep_vectors)
        console.print(f"That is below the recall of {config.recall:g} asked for: {advice}", highlight=False)
    queries = [*(['--text "…"'] if "text" in reads else []), *(["--image FILE"] if "image" in reads else [])]
    words = f"erel search --index {shlex.quote(str(config.out))} {', or '.join(queries)}"
    console.print(f"Next: {words}", soft_wrap=True, highlight=False, markup=False)


def better_recall(code: str, keep_vectors: bool) -> str:
    """What to change where an index finds too few of the nearest neighbors: only what is not done already."""
    if code == "float32":
        return "float32 loses nothing, so what is missing has the same score as what was found. Nothing finds more."
    if code.startswith("lists"):
        return "neighbors in lists that are not looked into are lost. Take --code int8 or float32, which look at all."
    more = {"int8": "float32", "int8_per_dimension": "int8 or float32", "eden8": "int8 or float32"}
    better = f"take a --code of more bits, {more.get(code, 'such as eden8 or int8')}"
    if keep_vectors:  # the best hits by the code are ordered exactly already; what is not among them is lost
        return f"{better}. The float32 vectors are kept already."
    return f"{better}, or --keep-vectors, which orders the best hits by the float32 vectors."
