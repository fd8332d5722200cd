"""What frozen towers said about every item, computed once and kept.

A cached method trains on an encoder's pooled embeddings or hidden states (*taps*) instead of running the encoder. The
states of one modality are one contiguous array `[N, …]` in bfloat16 with a manifest, keyed by everything that shaped
them: the encoder's weights, the items, the taps and the precision.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from erel_jax.artifacts import ArtifactDir, verify_manifest
from erel_jax.errors import CheckpointError, NonFiniteError

KIND = "hidden-states"


@dataclass(frozen=True, kw_only=True, eq=False)
class States:
    """Stored states of one modality.

    Attributes:
        values: bfloat16[N, …], mapped from disk.
        build_seconds: what computing them took, whenever that was.
    """

    values: np.ndarray
    build_seconds: float

    @property
    def bytes_per_item(self) -> int:
        """Stored bytes of one item."""
        return self.values.nbytes // len(self.values)


def stored_states(
    cache: Path,
    name: str,
    key: Sequence[str],
    rows: int,
    encode: Callable[[int, int], np.ndarray],
    chunk: int,
    progress: Callable[[str, int, int], None],
) -> States:
    """Opens stored states, or computes and stores them.

    Args:
        cache: cache folder.
        name: a word for folder names and progress, for example `text-taps`.
        key: everything that shapes the values; another key is another store.
        rows: number of items N.
        encode: `encode(start, stop) -> float[stop - start, …]`, finite.
        chunk: rows per call of `encode`.
        progress: called with (stage, done, total).

    Raises:
        NonFiniteError: the encoder gave NaN or infinity; names the first row.
    """
    digest = hashlib.sha256("|".join((*key, str(rows))).encode()).hexdigest()[:16]
    folder = cache / "states" / f"{name}-{digest}"
    try:
        manifest = verify_manifest(folder, kind=KIND)
    except CheckpointError:
        _build(folder, name, rows, encode, chunk, progress)
        manifest = verify_manifest(folder, "size", kind=KIND)
    bits = np.load(folder / "states.npy", mmap_mode="r", allow_pickle=False)
    return States(values=bits.view(ml_dtypes.bfloat16), build_seconds=float(manifest.metadata["build_seconds"]))


def _build(
    folder: Path,
    name: str,
    rows: int,
    encode: Callable[[int, int], np.ndarray],
    chunk: int,
    progress: Callable[[str, int, int], None],
) -> None:
    start_time = time.perf_counter()
    stage = f"storing {name}"
    with ArtifactDir(folder, kind=KIND, overwrite=True) as artifact:
        stored: Any = None
        for start in range(0, rows, chunk):
            stop = min(start + chunk, rows)
            progress(stage, start, rows)
            values = np.asarray(encode(start, stop), np.float32)
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            if bad.any():
                raise NonFiniteError(
                    f"{name}: the encoder gave NaN or infinity for item row {start + int(bad.argmax())}."
                )
            if stored is None:
                shape = (rows, *values.shape[1:])
                path = artifact.file("states.npy")
                stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)
            stored[start:stop] = values.astype(ml_dtypes.bfloat16).view(np.uint16)
        stored.flush()
        artifact.metadata["build_seconds"] = time.perf_counter() - start_time
    progress(stage, rows, rows)
