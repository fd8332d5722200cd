"""Indexes on disk: a folder with a checksum manifest, whole or absent, mapped when read.

    with writing(folder) as save:              # nobody else writes meanwhile, anybody may read
        save(add(load_index(folder), ids, vectors))

`streamed.write_index` makes the same folder from vectors that never are in memory at once.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np

from erel_jax.artifacts import MANIFEST_NAME, ArtifactDir, Manifest, Verify, metadata_digest, verify_manifest
from erel_jax.errors import ConfigError, CorruptArtifactError, suggest
from erel_jax.retrieval.codes.described import CODES, described, restored
from erel_jax.retrieval.index import Index, Measured, compacted
from erel_jax.retrieval.metric import INNER_PRODUCT
from erel_jax.retrieval.writer import only_writer, restore

KIND, SCHEMA = "index", 2
READS = (1, SCHEMA)
"""Layout 1 said nothing about metric and encoder."""


def save_index(folder: str | os.PathLike[str], index: Index, *, overwrite: bool = False) -> None:
    """Writes an index without its deleted rows: under another name, flushed to disk, then renamed.

    Args:
        folder: directory to make.
        index: what to write.
        overwrite: replace an existing directory. To add to what is there, hold `writing` from reading on.

    Raises:
        ConfigError: the directory exists and `overwrite` is false, or somebody else writes to it.
    """
    with only_writer(folder):
        _save(folder, index, overwrite)


@contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[Callable[[Index], None]]:
    """Keeps other writers away from an index from reading to saving, so that no addition gets lost.

    Args:
        folder: the index's directory; need not exist yet.

    Yields:
        A function that saves an index there, in place of what was there.

    Raises:
        ConfigError: somebody else writes to it.
    """
    with only_writer(folder):
        yield lambda index: _save(folder, index, overwrite=True)


def _save(folder: str | os.PathLike[str], index: Index, overwrite: bool) -> None:
    index = compacted(index)
    about, arrays = described(index.code)
    metadata: dict[str, Any] = about | {
        "measured": None if index.measured is None else dataclasses.asdict(index.measured),
        "rows": len(index.ids),
        "stored": sorted(index.stored),
        "metric": index.metric,
        "made_by": index.made_by,
    }
    with ArtifactDir(
        folder, kind=KIND, schema_version=SCHEMA, metadata=sealed(metadata), overwrite=overwrite
    ) as artifact:
        np.save(artifact.file("ids.npy"), index.ids, allow_pickle=False)
        for name, values in index.stored.items():
            np.save(artifact.file(f"stored.{name}.npy"), values, allow_pickle=False)
        for name, values in arrays.items():
            np.save(artifact.file(f"code.{name}.npy"), values, allow_pickle=False)
        if index.vectors is not None:
            np.save(artifact.file("vectors.npy"), np.asarray(index.vectors, np.float32), allow_pickle=False)


def load_index(folder: str | os.PathLike[str], *, verify: Verify = "auto", mapped: bool = True) -> Index:
    """Opens an index.

    Args:
        folder: directory that `save_index` or `write_index` made.
        verify: how thoroughly checksums are compared, see `artifacts.verify_manifest`; `auto` compares the content of
            every file up to 2 GB in all and sizes alone above, `full` always the content.
        mapped: leave codes and vectors on disk, where a search reads them block by block; False reads them into memory.

    Raises:
        ConfigError: `verify` is none of its choices.
        CorruptArtifactError: a file is missing or damaged, or the folder holds something else or another layout.
    """
    if verify not in (choices := get_args(Verify)):
        raise ConfigError(f"verify is {verify!r}. {suggest(str(verify), choices)}")
    restore(folder)
    manifest, source = verify_manifest(folder, verify, kind=KIND), Path(folder) / MANIFEST_NAME
    about = manifest.metadata
    if "sha256" in about and about != sealed(about):
        raise CorruptArtifactError(
            f"{source} is damaged: what it says of the index does not fit its checksum. Restore it from a copy, or "
            "build the index again."
        )
    try:
        return _restored(manifest, Path(folder), mapped)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptArtifactError(
            f"{source} does not describe an index ({error!r}). Restore it from a copy, or build the index again."
        ) from error


def sealed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with a checksum of itself in `sha256`."""
    rest = {name: value for name, value in metadata.items() if name != "sha256"}
    return rest | {"sha256": metadata_digest(rest)}


def _restored(manifest: Manifest, folder: Path, mapped: bool) -> Index:
    about = manifest.metadata
    if manifest.schema_version not in READS or about.get("code") not in CODES:
        raise CorruptArtifactError(
            f"{folder} has layout {manifest.schema_version} with code {about.get('code')!r}; this version reads "
            f"layouts {READS[0]} and {READS[1]} with {', '.join(CODES)}. Build the index again."
        )
    loaded = {name: _array(folder / name, mapped) for name in manifest.files if name.endswith(".npy")}
    arrays = {name[5:-4]: np.array(values) for name, values in loaded.items() if name.startswith("code.")}
    stored = {name: loaded[f"stored.{name}.npy"] for name in about["stored"]}
    ids = np.array(loaded["ids.npy"])
    if any(len(values) != about["rows"] for values in (ids, *stored.values())):
        raise CorruptArtifactError(f"{folder}: ids and codes do not have {about['rows']} rows. Build the index again.")
    return Index(
        code=restored(about, arrays),
        ids=ids,
        stored=stored,
        alive=np.ones(len(ids), bool),
        vectors=loaded.get("vectors.npy"),
        measured=None if about["measured"] is None else Measured(**about["measured"]),
        metric=about.get("metric", INNER_PRODUCT),
        made_by=about.get("made_by"),
    )


def _array(path: Path, mapped: bool) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CorruptArtifactError(
            f"{path} is no array ({error}). Restore it from a copy, or build the index again."
        ) from error
