"""Hidden states of frozen encoders on disk: built once, resumable, checked, and mapped when read.

A store is a folder for one modality:

- `states.bin`, one contiguous file: the values of all rows, then, for int8, the scales of all rows;
- `manifest.json`, what the store is: its identity (the fingerprints of everything that shaped it), shape and storage;
- `chunks.jsonl`, one line per finished chunk with its checksum, written after the chunk has reached the disk.

A killed build therefore loses at most the chunk it was at: opening the store again encodes what has no line or whose
bytes do not fit their line, and nothing else. A store whose identity differs from the one expected is refused with both
sides named; it is never read and never overwritten.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from erel_jax.artifacts import FULL_VERIFY_LIMIT_BYTES, RunLock, write_text_atomic
from erel_jax.errors import CheckpointError, ConfigError, NonFiniteError, suggest

Storage = Literal["bfloat16", "int8", "float32"]
Encode = Callable[[int, int], np.ndarray]
Progress = Callable[[str, int, int], None]

STORAGES = ("bfloat16", "int8", "float32")
_DTYPES = {name: np.dtype(kind) for name, kind in zip(STORAGES, (ml_dtypes.bfloat16, np.int8, np.float32), strict=True)}
VALUES, MANIFEST, JOURNAL = "states.bin", "manifest.json", "chunks.jsonl"
FORMAT = 1
_ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a store's values lie in its file.

    Attributes:
        rows: number of rows N.
        shape: shape of one row, for example (K, D) for K taps of width D.
        storage: "bfloat16"; "int8" with one float32 scale per row and tap; or "float32", what the encoder gave.
        chunk: rows per chunk, the unit of building, checking and repairing.
    """

    rows: int
    shape: tuple[int, ...]
    storage: Storage = "bfloat16"
    chunk: int = 256

    def __post_init__(self):
        if self.rows < 1 or self.chunk < 1 or not self.shape or min(self.shape) < 1:
            raise ConfigError(
                f"got rows={self.rows}, shape={self.shape}, chunk={self.chunk}; expected positive numbers."
            )
        if self.storage not in STORAGES:
            raise ConfigError(f"unknown storage {self.storage!r}. {suggest(self.storage, STORAGES)}")

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the values."""
        return _DTYPES[self.storage]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def scale_bytes(self) -> int:
        """Bytes of one row's scales; 0 without scales."""
        return 4 * math.prod(self.shape[:-1]) if self.storage == "int8" else 0

    @property
    def scales_at(self) -> int:
        """Offset of the scales in the file."""
        return -(-self.rows * self.row_bytes // _ALIGNMENT) * _ALIGNMENT

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.scales_at + self.rows * self.scale_bytes

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.rows // self.chunk)

    def span(self, chunk: int) -> tuple[int, int]:
        """First row of a chunk, and the row after its last."""
        return chunk * self.chunk, min((chunk + 1) * self.chunk, self.rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class StateStore:
    """An opened store, mapped from disk.

    Attributes:
        layout: its shape and storage.
        values: bfloat16, int8 or float32 [N, *shape].
        scales: float32[N, *shape[:-1]] for int8, otherwise None; `values · scales` are the states.
        build_seconds: seconds that encoding took, whenever that was.
        encoded_rows: rows that opening it had to encode.
    """

    layout: Layout
    values: np.ndarray
    scales: np.ndarray | None
    build_seconds: float
    encoded_rows: int

    def read(self, rows: np.ndarray | slice) -> np.ndarray | dict[str, np.ndarray]:
        """Stored rows in memory: bfloat16 or float32[B, *shape], or `{"values": int8, "scales": float32}`."""
        values = np.ascontiguousarray(self.values[rows])
        if self.scales is None:
            return values
        return {"values": values, "scales": np.ascontiguousarray(self.scales[rows])}

    def widened(self, rows: np.ndarray | slice) -> np.ndarray:
        """Rows as float32[B, *shape]."""
        values = self.values[rows].astype(np.float32)
        return values if self.scales is None else values * self.scales[rows][..., None]


def quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Int8 codes and scales, one scale per last axis: the error of a value is at most half its scale.

    Args:
        values: float32[..., D], finite.

    Returns:
        (int8[..., D] in [-127, 127], float32[...]), where the scale is the largest magnitude over 127.
    """
    scales = np.abs(values).max(axis=-1) / np.float32(127)
    divisor = np.where(scales > 0, scales, 1)[..., None]
    return np.clip(np.rint(values / divisor), -127, 127).astype(np.int8), scales.astype(np.float32)


def open_store(
    folder: Path,
    *,
    name: str,
    identity: Mapping[str, str],
    layout: Layout,
    encode: Encode,
    progress: Progress = lambda stage, done, total: None,
    verify: Literal["auto", "full", "off"] = "auto",
) -> StateStore:
    """Opens a store; encodes what it lacks, and chunks that are damaged, and nothing else.

    Args:
        folder: the store's folder, made when missing.
        name: a word for progress and messages, for example `text-taps`.
        identity: fingerprints by what they identify, such as `{"weights": …, "tokenizer": …, "items": …}`.
        layout: the shape and storage expected. A store made with other chunks keeps its own.
        encode: `encode(start, stop) -> float[stop - start, *shape]`, finite; asked for at most `layout.chunk` rows.
        progress: called with (stage, rows done, rows in all).
        verify: "full" checks every chunk's checksum, "off" trusts them; "auto" is "full" up to 2 GiB.

    Raises:
        CheckpointError: the store was built from something else; every difference is named with both sides.
        NonFiniteError: the encoder gave NaN or infinity; names the first row. What was stored before stays.
        OSError: the disk is full or the folder cannot be written; run again to go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = _kept_layout(folder, name, identity, layout)
    missing = _missing(folder, kept, verify) if kept is not None else list(range(layout.chunks))
    encoded = 0
    if missing:
        with _turn(folder, name, progress, layout.rows):
            # Another process may have done it while this one waited.
            kept = _kept_layout(folder, name, identity, layout) or _begin(folder, identity, layout)
            missing = _missing(folder, kept, verify)
            encoded = _encode_chunks(folder, name, kept, missing, encode, layout.chunk, progress)
    assert kept is not None
    return _mapped(folder, kept, encoded)


def _mapped(folder: Path, layout: Layout, encoded: int) -> StateStore:
    path = folder / VALUES
    bits = np.dtype(np.uint16) if layout.storage == "bfloat16" else layout.dtype
    values = np.memmap(path, bits, "r", shape=(layout.rows, *layout.shape)).view(layout.dtype)
    scales = None
    if layout.storage == "int8":
        shape = (layout.rows, *layout.shape[:-1])
        scales = np.memmap(path, np.float32, "r", offset=layout.scales_at, shape=shape)
    seconds = sum(float(line["seconds"]) for line in _journal(folder).values())
    return StateStore(layout=layout, values=values, scales=scales, build_seconds=seconds, encoded_rows=encoded)


def _document(identity: Mapping[str, str], layout: Layout) -> dict[str, Any]:
    return {
        "identity": dict(identity),
        "format": str(FORMAT),
        "rows": str(layout.rows),
        "shape": "×".join(map(str, layout.shape)),
        "storage": layout.storage,
    }


def _kept_layout(folder: Path, name: str, identity: Mapping[str, str], layout: Layout) -> Layout | None:
    """The layout of what lies in the folder, None where there is nothing to go on from."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
        chunk, have = int(found.pop("chunk")), {**found.pop("identity"), **found}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    document = _document(identity, layout)
    want = {**document.pop("identity"), **document}
    apart = [
        f"{key}: the store has {have.get(key, 'none')}, this run {want.get(key, 'none')}"
        for key in sorted({*have, *want})
        if have.get(key) != want.get(key)
    ]
    if apart:
        raise CheckpointError(
            f"{folder} holds states ({name}) that were built from something else. {'; '.join(apart)}. "
            "Give what they were built from, or delete the folder or name another to build new ones."
        )
    return Layout(rows=layout.rows, shape=layout.shape, storage=layout.storage, chunk=chunk)


def _begin(folder: Path, identity: Mapping[str, str], layout: Layout) -> Layout:
    for name in (JOURNAL, VALUES):
        (folder / name).unlink(missing_ok=True)
    text = json.dumps({**_document(identity, layout), "chunk": layout.chunk}, indent=1, sort_keys=True)
    write_text_atomic(folder / MANIFEST, text + "\n")
    return layout


def _journal(folder: Path) -> dict[int, dict[str, Any]]:
    """The last line of each chunk; a line that a kill tore is as good as none."""
    try:
        lines = (folder / JOURNAL).read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            found[int(entry["chunk"])] = {"sha256": str(entry["sha256"]), "seconds": float(entry["seconds"])}
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _missing(folder: Path, layout: Layout, verify: str) -> list[int]:
    """Chunks that are not there or, where checked, not as they were written."""
    path = folder / VALUES
    if not path.exists():
        return list(range(layout.chunks))
    journal = _journal(folder)
    whole = path.stat().st_size == layout.bytes
    check = verify == "full" or not whole or (verify == "auto" and layout.bytes <= FULL_VERIFY_LIMIT_BYTES)
    missing = []
    with path.open("rb") as stream:
        for chunk in range(layout.chunks):
            sound = chunk in journal
            if sound and check:
                parts = [_read(stream, at, size) for at, size in _places(layout, chunk)]
                sound = _checksum(parts) == journal[chunk]["sha256"]
            missing += [] if sound else [chunk]
    return missing


def _read(stream: Any, at: int, size: int) -> bytes:
    stream.seek(at)
    return stream.read(size)


def _places(layout: Layout, chunk: int) -> list[tuple[int, int]]:
    """(offset, size) of a chunk's values and, for int8, of its scales."""
    start, stop = layout.span(chunk)
    places = [(start * layout.row_bytes, (stop - start) * layout.row_bytes)]
    if layout.scale_bytes:
        places.append((layout.scales_at + start * layout.scale_bytes, (stop - start) * layout.scale_bytes))
    return places


def _checksum(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _encode_chunks(
    folder: Path, name: str, layout: Layout, missing: Sequence[int], encode: Encode, step: int, progress: Progress
) -> int:
    """Encodes and stores the missing chunks; returns the number of their rows."""
    spans = [layout.span(chunk) for chunk in missing]
    total, done = sum(stop - start for start, stop in spans), 0
    stage = f"storing {name}" if total == layout.rows else f"storing the rest of {name}"
    with (
        os.fdopen(os.open(folder / VALUES, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as values,
        open(folder / JOURNAL, "ab") as journal,
    ):
        os.ftruncate(values.fileno(), layout.bytes)
        journal.write(b"\n")  # ends a line that a kill may have torn
        for chunk, (start, stop) in zip(missing, spans, strict=True):
            progress(stage, done, total)
            begun = time.perf_counter()
            spans_asked = [(low, min(low + step, stop)) for low in range(start, stop, step)]
            rows = [_checked(name, layout, low, high, encode(low, high)) for low, high in spans_asked]
            parts = _packed(name, layout, start, np.concatenate(rows))
            for part, (at, _) in zip(parts, _places(layout, chunk), strict=True):
                _write(values.fileno(), part, at)
            os.fsync(values.fileno())
            line = {"chunk": chunk, "sha256": _checksum(parts), "seconds": time.perf_counter() - begun}
            journal.write(json.dumps(line).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
            done += stop - start
    progress(stage, total, total)
    return total


def _checked(name: str, layout: Layout, start: int, stop: int, given: np.ndarray) -> np.ndarray:
    values = np.asarray(given, np.float32)
    if values.shape[1:] != layout.shape:
        raise ConfigError(f"{name}: the encoder gave rows of shape {values.shape[1:]}, expected {layout.shape}.")
    if len(values) != stop - start:
        raise ConfigError(
            f"{name}: the encoder gave {len(values)} rows when asked for {start} to {stop}, expected {stop - start}. "
            "Return one per item asked for."
        )
    return values


def _packed(name: str, layout: Layout, start: int, values: np.ndarray) -> list[bytes]:
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise NonFiniteError(f"{name}: the encoder gave NaN or infinity for item row {start + int(bad.argmax())}.")
    if layout.storage != "int8":
        return [values.astype(layout.dtype).tobytes()]
    return [part.tobytes() for part in quantize(values)]


def _write(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


@contextlib.contextmanager
def _turn(folder: Path, name: str, progress: Progress, rows: int) -> Iterator[None]:
    """Waits until no other process builds the same store, and keeps others waiting."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(RunLock(folder))
                break
            except ConfigError:
                progress(f"waiting for another run to store {name}", 0, rows)
                time.sleep(0.5)
        yield
