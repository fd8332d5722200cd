"""Shards on disk: vectors, their ids and what was left out, whole or absent.

    shard-00007-of-00012/vectors.npy      float32 or float16[N, E]
                         ids.json         N texts, in the order of the source
                         left_out.jsonl   rows without a vector, and why
                         manifest.json    sizes and checksums, written last

`left_out.jsonl` and `done.json` beside the shards are written when all are there, `done.json` last.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from erel_jax.artifacts import ArtifactDir, read_manifest, verify_manifest, write_text_atomic
from erel_jax.catalogs.inputs import LeftOut
from erel_jax.catalogs.plan import Plan, read_plan
from erel_jax.errors import CorruptArtifactError, DataError

KIND, SCHEMA = "embedded shard", 1
DONE, LEFT_OUT, LEASES = "done.json", "left_out.jsonl", "leases"


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """What one shard holds.

    Attributes:
        ids: N ids, in the order of the source.
        vectors: float[N, E].
        left_out: rows without a vector, or cut.
    """

    ids: list[str]
    vectors: np.ndarray
    left_out: Sequence[LeftOut] = ()


def write_shard(folder: Path, plan: Plan, number: int, shard: Shard) -> bool:
    """Stores a shard, unless another worker has done so meanwhile.

    Args:
        folder: output folder.
        plan: its plan.
        number: which shard.
        shard: its content; together with what was left out it accounts for every row.

    Returns:
        Whether this worker stored it.

    Raises:
        OSError: the disk is full, for example; nothing half-written takes the place.
    """
    lost = sum(not one.kept for one in shard.left_out)
    if len(shard.ids) != len(shard.vectors) or len(shard.ids) + lost != plan.shard_rows(number):
        raise AssertionError(f"{len(shard.ids)} ids, {len(shard.vectors)} vectors, {lost} left out: a row got lost")
    final = folder / plan.shard_name(number)
    if final.exists():
        return False
    dtype = np.float16 if plan.options["store"] == "float16" else np.float32
    counts = dict(Counter(one.kind for one in shard.left_out))
    about = {"rows": plan.shard_rows(number), "kept": len(shard.ids), "left_out": counts, "space": plan.model["space"]}
    with ArtifactDir(final, kind=KIND, schema_version=SCHEMA, metadata=about, overwrite=True) as artifact:
        np.save(artifact.file("vectors.npy"), shard.vectors.astype(dtype), allow_pickle=False)
        artifact.file("ids.json").write_text(json.dumps(shard.ids), "utf-8")
        lines = "".join(json.dumps(asdict(one)) + "\n" for one in shard.left_out)
        artifact.file(LEFT_OUT).write_text(lines, "utf-8")
    return True


def done_shards(folder: Path, plan: Plan) -> list[int]:
    """Numbers of the shards that are in place."""
    return [number for number in range(len(plan.places)) if (folder / plan.shard_name(number)).is_dir()]


def finish(folder: Path, plan: Plan) -> dict[str, Any]:
    """Says that all shards are there; any worker may, and all write the same.

    Args:
        folder: output folder in which all shards are in place.
        plan: its plan.

    Returns:
        `rows`, `kept`, `left_out` (rows by kind, those that were cut but kept among them) and `shards`.

    Raises:
        CorruptArtifactError: a shard has no readable manifest.
    """
    about = [read_manifest(folder / plan.shard_name(number)).metadata for number in range(len(plan.places))]
    kinds: Counter[str] = Counter()
    for one in about:
        kinds.update(one["left_out"])
    lines = [(folder / plan.shard_name(number) / LEFT_OUT).read_text("utf-8") for number in range(len(about))]
    write_text_atomic(folder / LEFT_OUT, "".join(lines))
    result = {
        "rows": plan.rows,
        "kept": sum(one["kept"] for one in about),
        "left_out": dict(kinds.most_common()),
        "shards": len(about),
    }
    for leftover in folder.glob("shard-*.tmp-*"):  # of killed workers: all shards are in place, so nobody writes one
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(folder / LEASES, ignore_errors=True)
    write_text_atomic(folder / DONE, json.dumps(result, indent=1) + "\n")
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalog:
    """A finished output folder of `erel embed`; its vectors stay on disk until they are asked for.

    Attributes:
        folder: the folder.
        plan: what was embedded, with what.
        ids: text[N], in the order of the source.
    """

    folder: Path
    plan: Plan
    ids: np.ndarray

    @property
    def vectors(self) -> np.ndarray:
        """float32[N, E] of length 1, read anew."""
        vectors = np.empty((len(self.ids), self.plan.model["width"]), np.float32)
        start = 0
        for block in self.blocks():
            vectors[start : start + len(block)] = block
            start += len(block)
        return vectors

    def blocks(self) -> Iterator[np.ndarray]:
        """The vectors shard by shard, float32[n, E]; shards without any are passed over."""
        for number in range(len(self.plan.places)):
            path = self.folder / self.plan.shard_name(number) / "vectors.npy"
            block = np.load(path, allow_pickle=False)
            if len(block):
                yield block.astype(np.float32, copy=False)


def read_catalog(folder: Path) -> Catalog:
    """Opens all shards, comparing every checksum.

    Args:
        folder: output folder of `erel embed`.

    Raises:
        ConfigError: it is no such folder.
        DataError: not all shards are there, or no row could be embedded.
        CorruptArtifactError: a shard is damaged, or made by another encoder than the plan says.
    """
    plan = read_plan(folder)
    missing = len(plan.places) - len(done_shards(folder, plan))
    if missing:
        raise DataError(
            f"{folder}: {missing} of {len(plan.places)} shards are not there yet. Run the same `erel embed` again; it "
            "goes on where it stopped."
        )
    ids = [id for number in range(len(plan.places)) for id in _checked_ids(folder / plan.shard_name(number), plan)]
    if not ids:
        raise DataError(f"{folder}: none of {plan.rows} rows could be embedded; {LEFT_OUT} says why.")
    return Catalog(folder=folder, plan=plan, ids=np.array(ids, dtype=str))


def _checked_ids(path: Path, plan: Plan) -> list[str]:
    about = verify_manifest(path, "full", kind=KIND).metadata
    ids = json.loads((path / "ids.json").read_text("utf-8"))
    shape = np.load(path / "vectors.npy", mmap_mode="r", allow_pickle=False).shape
    if about["space"] != plan.model["space"] or shape != (len(ids), plan.model["width"]):
        raise CorruptArtifactError(
            f"{path} holds {len(ids)} ids and vectors {list(shape)} of encoder {about['space'][:12]}; the plan says "
            f"width {plan.model['width']} of {plan.model['space'][:12]}. Delete it and embed again."
        )
    return ids
