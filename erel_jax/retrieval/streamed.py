"""Building an index of vectors that never are in memory at once: blocks are encoded straight into files.

write_index(folder, ids, (read(part) for part in parts), code=eden(256))
found = search_index(load_index(folder), queries, 10)      # read from disk, block by block
"""

import dataclasses
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from erel_jax.artifacts import ArtifactDir
from erel_jax.errors import ConfigError, DataError
from erel_jax.retrieval.checks import check_count
from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.codes.described import described
from erel_jax.retrieval.exact import search_exact
from erel_jax.retrieval.folder import KIND, SCHEMA, sealed
from erel_jax.retrieval.ids import as_ids
from erel_jax.retrieval.index import SAMPLE, TOP, Index, Measured, check_code, check_wanted, measured_with, noisy_rows
from erel_jax.retrieval.metric import INNER_PRODUCT, check_metric, prepared
from erel_jax.retrieval.writer import only_writer


def write_index(
    folder: str | os.PathLike[str],
    ids: Sequence[int] | Sequence[str] | np.ndarray,
    blocks: Iterable[np.ndarray],
    *,
    code: Code,
    keep_vectors: bool = False,
    metric: str = INNER_PRODUCT,
    made_by: str | None = None,
    overwrite: bool = False,
    wanted_recall: float | None = None,
    sample: int = SAMPLE,
) -> Measured | None:
    """Writes an index that `load_index` opens; what it holds equals `build_index` over all blocks together.

    Args:
        folder: directory to make; whole or absent.
        ids: N whole numbers from 0 or texts, each once.
        blocks: float[n, E] each, N rows in all; consumed one at a time.
        code: how to store them; one that is fitted needs its sample before.
        keep_vectors: write the vectors as well, to score the best hits again.
        metric, made_by, wanted_recall: as in `build_index`.
        overwrite: replace an existing directory.
        sample: rows of the first block to measure with, as noisy queries, whose exact hits among all blocks are found
            meanwhile; 0 measures nothing.

    Returns:
        What searching from disk showed, also kept in the index; None where nothing was measured.

    Raises:
        ConfigError, NonFiniteError: as `build_index`; a block's rows are numbered from the first block on.
        DataError: there are not as many vectors as ids. Nothing is left behind then, and an older index stays.
    """
    ids = as_ids(ids)
    check_metric(metric)
    check_wanted(wanted_recall)
    check_count(sample, "sample", least=0)
    check_code(code)
    if not len(ids):
        raise ConfigError("got no ids, expected 1 or more.")
    about, arrays = described(code)
    metadata: dict[str, Any] = about | {"measured": None, "rows": len(ids), "metric": metric, "made_by": made_by}
    with (
        only_writer(folder),
        ArtifactDir(folder, kind=KIND, schema_version=SCHEMA, metadata=metadata, overwrite=overwrite) as artifact,
    ):
        np.save(artifact.file("ids.npy"), ids, allow_pickle=False)
        for name, values in arrays.items():
            np.save(artifact.file(f"code.{name}.npy"), values, allow_pickle=False)
        with ExitStack() as stack:
            files = _Files(artifact, stack, len(ids))
            exact, seconds = _encoded(files, len(ids), blocks, code, metric, keep_vectors, sample)
        metadata["stored"] = files.stored()
        measured = None
        if exact is not None:
            measured = exact.measured(code, ids, artifact.path, files.stored(), seconds, wanted_recall)
            metadata["measured"] = dataclasses.asdict(measured)
        artifact.metadata = sealed(metadata)
    return measured


def _encoded(
    files: "_Files",
    rows: int,
    blocks: Iterable[np.ndarray],
    code: Code,
    metric: str,
    keep_vectors: bool,
    sample: int,
) -> tuple["_Exact | None", float]:
    done, seconds, exact = 0, 0.0, None
    for block in blocks:
        vectors = prepared(f"vectors from row {done}", block, metric, code.width)
        if done + len(vectors) > rows:
            raise DataError(f"the blocks hold more than {rows} vectors, expected one for each id.")
        if sample:
            exact = _Exact(noisy_rows(vectors, sample)) if exact is None else exact
            exact.see(vectors, done)
        done += len(vectors)
        begun = time.perf_counter()
        encoded = code.encode(vectors)
        seconds += time.perf_counter() - begun
        for name, values in encoded.items():
            files.append(f"stored.{name}.npy", values)
        if keep_vectors:
            files.append("vectors.npy", np.asarray(vectors, np.float32))
    if done < rows:
        raise DataError(f"the blocks hold {done} vectors for {rows} ids, expected one for each id.")
    return exact, seconds


class _Exact:
    """The exact hits of some queries among blocks that come one by one."""

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries
        self._scores = np.zeros((len(queries), 0), np.float32)
        self._rows = np.zeros((len(queries), 0), np.int32)

    def see(self, vectors: np.ndarray, start: int) -> None:
        hits = search_exact(vectors, self._queries, min(TOP, len(vectors)))
        scores = np.concatenate([self._scores, hits.scores], axis=1)
        rows = np.concatenate([self._rows, hits.rows + np.int32(start)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
        self._scores, self._rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)

    def measured(
        self, code: Code, ids: np.ndarray, folder: Path, stored: list[str], seconds: float, wanted: float | None
    ) -> Measured:
        loaded = {name: np.load(folder / f"stored.{name}.npy", mmap_mode="r") for name in stored}
        kept = folder / "vectors.npy"
        index = Index(
            code=code,
            ids=ids,
            stored=loaded,
            alive=np.ones(len(ids), bool),
            vectors=np.load(kept, mmap_mode="r") if kept.exists() else None,
        )
        return measured_with(index, self._queries, self._rows, seconds, wanted)


class _Files:
    """Arrays on disk that grow by rows up to a length that is known beforehand."""

    def __init__(self, artifact: ArtifactDir, stack: ExitStack, rows: int) -> None:
        self._artifact, self._stack, self._rows = artifact, stack, rows
        self._open: dict[str, BinaryIO] = {}

    def stored(self) -> list[str]:
        """Names of what the code keeps."""
        return sorted(name[len("stored.") : -len(".npy")] for name in self._open if name.startswith("stored."))

    def append(self, name: str, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values)
        if name not in self._open:
            file = open(self._artifact.file(name), "wb")  # noqa: SIM115 (closed by the stack)
            self._open[name] = self._stack.enter_context(file)
            shape = (self._rows, *values.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._open[name], header)
        self._open[name].write(memoryview(values).cast("B"))
