"""Indexes on disk: a folder with a checksum manifest, whole or absent, mapped when read."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.artifacts import ArtifactDir, Verify, verify_manifest
from erel_jax.errors import CorruptArtifactError
from erel_jax.retrieval.codes.binary import Binary
from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.codes.eden import Eden
from erel_jax.retrieval.codes.floats import Float32
from erel_jax.retrieval.codes.int8 import Int8PerDimension, Int8PerVector
from erel_jax.retrieval.index import Index, Measured, compacted

KIND, SCHEMA = "index", 1
CODES: Mapping[str, type] = {kind.__name__: kind for kind in (Float32, Int8PerVector, Int8PerDimension, Binary, Eden)}
"""Codes that can be read from a folder, by name. A new code is a line here."""


def save_index(folder: str | os.PathLike[str], index: Index, *, overwrite: bool = False) -> None:
    """Writes an index without its deleted rows.

    Args:
        folder: directory to make.
        index: what to write.
        overwrite: replace an existing directory.

    Raises:
        ConfigError: the directory exists and `overwrite` is false.
    """
    index = compacted(index)
    parts = {field.name: getattr(index.code, field.name) for field in dataclasses.fields(index.code)}  # type: ignore[arg-type]
    arrays = {name: np.asarray(value) for name, value in parts.items() if hasattr(value, "shape")}
    metadata: dict[str, Any] = {
        "code": type(index.code).__name__,
        "settings": {name: value for name, value in parts.items() if name not in arrays},
        "measured": None if index.measured is None else dataclasses.asdict(index.measured),
        "rows": len(index.ids),
        "stored": sorted(index.stored),
    }
    with ArtifactDir(folder, kind=KIND, schema_version=SCHEMA, metadata=metadata, overwrite=overwrite) as artifact:
        np.save(artifact.file("ids.npy"), index.ids, allow_pickle=False)
        for name, values in index.stored.items():
            np.save(artifact.file(f"stored.{name}.npy"), values, allow_pickle=False)
        for name, values in arrays.items():
            np.save(artifact.file(f"code.{name}.npy"), values, allow_pickle=False)
        if index.vectors is not None:
            np.save(artifact.file("vectors.npy"), np.asarray(index.vectors, np.float32), allow_pickle=False)


def load_index(folder: str | os.PathLike[str], *, verify: Verify = "auto") -> Index:
    """Opens an index; codes and vectors are mapped from disk.

    Args:
        folder: directory that `save_index` made.
        verify: how thoroughly checksums are compared, see `artifacts.verify_manifest`.

    Raises:
        CorruptArtifactError: a file is missing or damaged, or the folder holds something else or another layout.
    """
    manifest, root = verify_manifest(folder, verify, kind=KIND), Path(folder)
    about = manifest.metadata
    if manifest.schema_version != SCHEMA or about.get("code") not in CODES:
        raise CorruptArtifactError(
            f"{folder} has layout {manifest.schema_version} with code {about.get('code')!r}; this version reads layout "
            f"{SCHEMA} with {', '.join(CODES)}. Build the index again."
        )
    loaded = {
        name: np.load(root / name, mmap_mode="r", allow_pickle=False)
        for name in manifest.files
        if name.endswith(".npy")
    }
    arrays = {name[5:-4]: np.array(values) for name, values in loaded.items() if name.startswith("code.")}
    stored = {name: loaded[f"stored.{name}.npy"] for name in about["stored"]}
    ids = np.array(loaded["ids.npy"])
    if any(len(values) != about["rows"] for values in (ids, *stored.values())):
        raise CorruptArtifactError(f"{folder}: ids and codes do not have {about['rows']} rows. Build the index again.")
    code: Code = CODES[about["code"]](**about["settings"], **arrays)
    return Index(
        code=code,
        ids=ids,
        stored=stored,
        alive=np.ones(len(ids), bool),
        vectors=loaded.get("vectors.npy"),
        measured=None if about["measured"] is None else Measured(**about["measured"]),
    )
