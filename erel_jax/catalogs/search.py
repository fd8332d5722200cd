"""`erel search`: texts and pictures to the nearest items of an index."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from erel_jax.artifacts import write_text_atomic
from erel_jax.catalogs.build import read_origin
from erel_jax.catalogs.config import SearchConfig
from erel_jax.catalogs.embed import decoders
from erel_jax.catalogs.encode import Meter, encode_shard
from erel_jax.catalogs.inputs import LeftOut, Preparation
from erel_jax.catalogs.models import Embedder, load_embedder, modalities_of
from erel_jax.catalogs.page import Shown, render_page
from erel_jax.catalogs.plan import PLAN
from erel_jax.data.catalog_sources import Source, open_source
from erel_jax.data.catalog_tables import Columns, Place, Row
from erel_jax.data.image_sources import Pictures
from erel_jax.data.pair_tables import normalize_text
from erel_jax.errors import ConfigError, DataError
from erel_jax.folders import check_writable
from erel_jax.retrieval import Index, load_index, search_index

QUERY_BATCH = 32
SHOWN_QUERIES = 5
"""Queries whose hits are printed on the terminal; files hold all."""
PAGE_QUERIES = 50


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One query and what was found for it, best first."""

    query: str
    ids: list[str]
    scores: list[float]


def search(config: SearchConfig, console: Console) -> list[Answer]:
    """Searches an index and shows the hits.

    Args:
        config: what a person asked for.
        console: where the hits go.

    Raises:
        ConfigError: another encoder than that of the index, or a query that the model cannot read.
        DataError: the query's picture or table cannot be used.
        CorruptArtifactError: the index is damaged.
    """
    for file in (config.out, config.html):
        if file is not None and file.is_dir():
            raise ConfigError(
                f"{file} is a folder, expected the name of a file to write. Choose another --out or --html."
            )
        if file is not None:
            check_writable(file.absolute().parent, "--out or --html")
    if not config.index.is_dir():
        raise ConfigError(f"{config.index} is no folder. Point --index to what `erel index` wrote.")
    if (config.index / PLAN).is_file():
        raise ConfigError(
            f"{config.index} holds the vectors of `erel embed`, expected an index of them. Make one with "
            f"`{shlex.join(['erel', 'index', '--vectors', str(config.index), '--out', 'FOLDER'])}`."
        )
    index, origin = load_index(config.index), read_origin(config.index)
    model = config.model or origin["model"].get("name")
    if model is None:
        raise ConfigError(f"{config.index} does not say which model made it. Name it with --model.")
    source, rows = _queries(config, console)
    queries, vectors, left_out, space = _encoded(config, source, rows, model, index, origin)
    for one in left_out:
        console.print(f"{one.file}: {one.reason}", highlight=False, markup=False)
    if not queries:
        raise DataError(f"no query is left to search with. {left_out[0].reason if left_out else 'Give one.'}")
    found = search_index(index, vectors, config.k, made_by=space)
    answers = []
    for row, ids, scores in zip(queries, found.ids, found.scores, strict=True):
        known = np.isfinite(scores)  # with fewer items than k, the places left over hold nothing
        answers.append(Answer(query=row.id, ids=ids[known].tolist(), scores=scores[known].tolist()))
    _print_hits(answers, console)
    if config.out is not None:
        lines = [{"query": one.query, "ids": one.ids, "scores": one.scores} for one in answers]
        write_text_atomic(config.out, "".join(json.dumps(line) + "\n" for line in lines))
        console.print(f"{len(answers):,} queries with their hits are in {config.out}.", highlight=False)
    if config.html is not None:
        _write_page(config, origin, source, queries, answers, console)
    return answers


def _encoded(
    config: SearchConfig, source: Source, rows: list[Row], model: str, index: Index, origin: dict[str, Any]
) -> tuple[list[Row], np.ndarray, Sequence[LeftOut], str]:
    """Query rows that could be encoded, their vectors, what could not, and the fingerprint of the encoder."""
    reads = modalities_of(model)
    has = [name for name in ("text", "image") if getattr(source.columns, name) is not None]
    modality = next((name for name in has if name in reads), None)
    if modality is None:
        raise ConfigError(
            f"{model} reads {' and '.join(reads)}, the query is {' and '.join(has)}. Search with "
            f"{' or '.join('--' + name for name in reads)}, or embed with a model that reads both (CLIP, SigLIP)."
        )
    embedder = _load(config, model, modality, index, origin["model"])
    with Preparation(embedder, source, batch=min(QUERY_BATCH, _power(len(rows))), decoders=decoders()) as preparation:
        shard = encode_shard(preparation, rows, Meter())
    by_id = {row.id: row for row in rows}
    return [by_id[id] for id in shard.ids], shard.vectors, shard.left_out, embedder.space


def _queries(config: SearchConfig, console: Console) -> tuple[Source, list[Row]]:
    place = Place()
    if config.text is not None:
        text = normalize_text(config.text)
        if not text:
            raise ConfigError("--text got an empty text. Say what to search for.")
        columns = Columns(id=None, image=None, text="text")
        source = Source(path=Path("--text"), kind="csv", columns=columns, images=Path("."))
        return source, [Row(place=place, id=text, text=text)]
    if config.image is not None:
        if not config.image.is_file():
            raise DataError(f"{config.image}: no such picture. Check --image.")
        columns = Columns(id=None, image="image", text=None)
        source = Source(path=config.image, kind="pictures", columns=columns, images=config.image.absolute().parent)
        return source, [Row(place=place, id=config.image.name, image=config.image.name)]
    assert config.queries is not None
    source = open_source(config.queries, None, advice="Rename the column of --queries, or write a header")
    for remark in source.remarks():
        console.print(remark, highlight=False, markup=False)
    return source, _unique(source.rows())


def _unique(rows: Iterable[Row]) -> list[Row]:
    """Rows with ids of their own; queries whose id occurs again are called by their line besides."""
    taken: set[str] = set()
    named = []
    for row in rows:
        name = row.id if row.id not in taken else f"{row.id} (line {row.place.line})"
        taken.add(name)
        named.append(Row(place=row.place, id=name, image=row.image, text=row.text, fault=row.fault))
    return named


def _load(config: SearchConfig, model: str, modality: str, index: Index, made: dict[str, Any]) -> Embedder:
    """The encoder, cut to the dimensions that the catalog kept; refused if it is not the catalog's."""
    options = {"precision": config.precision, "prompt": config.prompt, "pooling": made.get("pooling")}
    embedder = load_embedder(model, modality, **options)
    if index.code.width < embedder.width:
        embedder = load_embedder(model, modality, **options, dims=index.code.width)
    if index.made_by is not None and index.made_by != embedder.space:
        raise ConfigError(
            f"{config.index} was made by the encoder of {made.get('name', 'another model')} (fingerprint "
            f"{index.made_by[:12]}); {model} is {embedder.space[:12]}. Scores between the two mean nothing: search "
            "with the same --model, or embed and index again."
        )
    return embedder


def _power(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _print_hits(answers: list[Answer], console: Console) -> None:
    for answer in answers[:SHOWN_QUERIES]:
        table = Table("", "id", "score", title=escape(_one_line(answer.query)), title_justify="left")
        for place, (id, score) in enumerate(zip(answer.ids, answer.scores, strict=True), 1):
            table.add_row(str(place), escape(_one_line(id)), f"{score:.4f}")
        console.print(table)
    if len(answers) > SHOWN_QUERIES:
        console.print(f"… and {len(answers) - SHOWN_QUERIES:,} more queries; --out writes them all.", highlight=False)


def _one_line(text: str, limit: int = 100) -> str:
    cleaned = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def _write_page(
    config: SearchConfig,
    origin: dict[str, Any],
    source: Source,
    queries: list[Row],
    answers: list[Answer],
    console: Console,
) -> None:
    """The page shows what the catalog's source still has of the hits; ids and scores it shows in any case."""
    assert config.html is not None
    shown = answers[:PAGE_QUERIES]
    rows, pictures, note = _hit_rows(config, origin, {id for answer in shown for id in answer.ids})
    asked: list[tuple[Shown, list[Shown]]] = []
    query_pictures = _pictures(source)
    for row, answer in zip(queries, shown, strict=False):
        hits = [
            Shown.of(rows.get(id, Row(place=Place(), id=id)), pictures, score)
            for id, score in zip(answer.ids, answer.scores, strict=True)
        ]
        asked.append((Shown.of(row, query_pictures, None), hits))
    notes = [note] if note else []
    if len(answers) > len(shown):
        notes.append(f"The first {len(shown)} of {len(answers):,} queries are shown.")
    config.html.write_text(render_page(asked, str(config.index), origin["model"].get("name", ""), notes), "utf-8")
    if note:
        console.print(note, highlight=False, markup=False)
    console.print(f"{'Ids' if note else 'Pictures and texts'} of the hits are in {config.html}.", highlight=False)


def _hit_rows(
    config: SearchConfig, origin: dict[str, Any], wanted: set[str]
) -> tuple[dict[str, Row], Pictures | None, str]:
    """Rows of the source by id, as far as the source is still there, and a sentence where it is not."""
    about = origin["source"]
    data = config.data or (Path(about["path"]) if about else None)
    images = config.images or (Path(about["images"]) if about and config.data is None else None)
    if data is None or not data.exists():
        return {}, None, f"The source {data or ''} is not there, so hits are shown by their ids. Name it with --data."
    if about and about.get("kind") == "pictures":
        images = None
    columns = about.get("columns", {})
    keys = {} if about.get("kind") == "pictures" else {f"{name}_key": column for name, column in columns.items()}
    rows: dict[str, Row] = {}
    try:
        source = open_source(data, images, **keys)
        for row in source.rows():
            if row.id in wanted and row.fault is None:
                rows[row.id] = row
                if len(rows) == len(wanted):
                    break
        return rows, _pictures(source), ""
    except (ConfigError, DataError) as error:
        return rows, None, f"The source cannot be read as it was, so hits may be shown by their ids alone. {error}"


def _pictures(source: Source) -> Pictures | None:
    return source.pictures() if source.columns.image is not None and source.images.exists() else None
