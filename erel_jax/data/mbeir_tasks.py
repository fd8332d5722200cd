"""A folder in the layout of M-BEIR: its tasks, their own pools, and the union pool.

    FOLDER/query/test/mbeir_visualnews_task0_test.jsonl
    FOLDER/cand_pool/local/mbeir_visualnews_task0_cand_pool.jsonl
    FOLDER/cand_pool/global/mbeir_union_test_cand_pool.jsonl
    FOLDER/qrels/test/mbeir_visualnews_task0_test_qrels.txt
    FOLDER/instructions/query_instructions.tsv
    FOLDER/mbeir_images/…

`load_mbeir` reads one split and keeps an account of what it left out; `MbeirInputs` turns queries or candidates into
texts, pictures and the masks that say which are there.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erel_jax.data.bad_records import BadRecords
from erel_jax.data.image_sources import MissingImage, Pictures
from erel_jax.data.images import BadImage, decode_image
from erel_jax.data.mbeir import (
    MbeirInstructions,
    MbeirItem,
    MbeirPool,
    MbeirQuery,
    format_text,
    read_instructions,
    read_pool,
    read_qrels,
    read_queries,
    union_pool,
)
from erel_jax.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class MbeirTask:
    """One task: queries of one data set, and what they look for.

    Attributes:
        name: for example "visualnews_task0".
        queries: Q queries with at least one right candidate.
        sought: modality of the right candidates of each query.
        relevant: ids of the right candidates of each query, those of other data sets included.
        pool: the task's own pool; the union pool where it has none.
    """

    name: str
    queries: list[MbeirQuery]
    sought: list[str]
    relevant: list[tuple[str, ...]]
    pool: MbeirPool

    def positives(self, pool: MbeirPool) -> np.ndarray:
        """Places of the right candidates in a pool, for `metrics.rank_positives`.

        Args:
            pool: the task's own pool, or the union pool.

        Returns:
            int32[Q, P], -1 in unused places and where a right candidate is not in this pool.
        """
        rows = [[pool.rows[did] for did in ids if did in pool.rows] for ids in self.relevant]
        found = np.full((len(rows), max(1, *(len(row) for row in rows))), -1, np.int32)
        for place, row in enumerate(rows):
            found[place, : len(row)] = row
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class MbeirData:
    """One split of a folder.

    Attributes:
        folder: the folder.
        tasks: by name.
        union: all candidates of the split.
        instructions: None where the folder has no table of them.
        bad: what was left out or is incomplete; reading pictures adds to it.
        read: number of entries that were looked at.
    """

    folder: Path
    tasks: dict[str, MbeirTask]
    union: MbeirPool
    instructions: MbeirInstructions | None
    bad: BadRecords
    read: int

    @property
    def left_out(self) -> dict[str, int]:
        """Number of listed entries by reason."""
        return dict(Counter(record.reason.split(":")[0] for record in self.bad.records))

    def texts(self, task: MbeirTask, seed: int | None) -> list[str]:
        """Texts of a task's queries as an encoder sees them.

        Args:
            task: one of `tasks`.
            seed: decides which wording of the instruction each query gets; None leaves instructions out.

        Raises:
            DataError: there is no instruction for a query.
        """
        if seed is None:
            return [format_text(query.text) for query in task.queries]
        if self.instructions is None:
            raise DataError(
                f"{self.folder}: no instructions/query_instructions.tsv. Get it from where the data came from, or go "
                "without instructions."
            )
        pairs = zip(task.queries, task.sought, strict=True)
        return [self.instructions.instructed(query, sought, seed) for query, sought in pairs]


def load_mbeir(
    folder: str | os.PathLike[str],
    split: str = "test",
    *,
    bad_records: str | os.PathLike[str],
    max_bad_fraction: float = 0.01,
) -> MbeirData:
    """Read a split of a folder in the layout of M-BEIR.

    Args:
        folder: holds `query`, `cand_pool` and, where there are, `qrels` and `instructions`.
        split: "train", "val" or "test"; every file of `query/SPLIT` is a task. Judgments come from `qrels/SPLIT`, or
            from the queries' own lists. The union pool is `mbeir_union_SPLIT_cand_pool.jsonl`, or all local pools
            together; for "train", local pools count only if they have the split in their name.
        bad_records: JSON Lines file to write what was left out to.
        max_bad_fraction: largest tolerated fraction of damaged entries, in 0..1.

    Returns:
        The split. Queries without a right candidate in any pool are left out and listed.

    Raises:
        ConfigError: the folder has no such split.
        DataError: a file is missing, a path leads out of the folder, or too much is damaged; names file and line.
    """
    folder, bad = Path(folder), BadRecords(bad_records, max_bad_fraction)
    files = sorted((folder / "query" / split).glob("*.jsonl"))
    if not files:
        there = sorted(path.name for path in (folder / "query").glob("*") if path.is_dir())
        raise ConfigError(
            f"{folder / 'query' / split} has no .jsonl file; {folder} has the splits {', '.join(there) or 'none'}. "
            "Expected the layout of M-BEIR (docs/recipes.md)."
        )
    queries = {_name(path, split): read_queries(path, folder, bad) for path in files}
    pools: dict[str, MbeirPool] = {}
    for name in queries:
        stems = [f"mbeir_{name}_{split}_cand_pool.jsonl", f"mbeir_{name}_cand_pool.jsonl"]
        # A pool without the name of a split is one to be searched, which training has no use for.
        paths = [folder / "cand_pool" / "local" / stem for stem in (stems[:1] if split == "train" else stems)]
        if path := next((path for path in paths if path.is_file()), None):
            pools[name] = read_pool(path, folder, bad)
    whole = folder / "cand_pool" / "global" / f"mbeir_union_{split}_cand_pool.jsonl"
    if not whole.is_file() and not pools:
        raise DataError(f"{whole}: no such file, and no local pool of {', '.join(queries)} either.")
    union = read_pool(whole, folder, bad) if whole.is_file() else union_pool(pools.values())
    read = sum(map(len, queries.values())) + sum(map(len, pools.values())) + len(union) + len(bad)
    tasks: dict[str, MbeirTask] = {}
    for name, given in queries.items():
        path = folder / "qrels" / split / f"mbeir_{name}_{split}_qrels.txt"
        judged = read_qrels(path, bad) if path.is_file() else {query.id: query.positives for query in given}
        tasks[name] = _task(name, given, judged, pools.get(name, union), union, bad)
    table = folder / "instructions" / "query_instructions.tsv"
    instructions = read_instructions(table) if table.is_file() else None
    bad.finish(read)
    return MbeirData(folder=folder, tasks=tasks, union=union, instructions=instructions, bad=bad, read=read)


def _name(path: Path, split: str) -> str:
    return path.stem.removeprefix("mbeir_").removesuffix(f"_{split}")


def _task(
    name: str,
    queries: list[MbeirQuery],
    judged: dict[str, tuple[str, ...]],
    pool: MbeirPool,
    union: MbeirPool,
    bad: BadRecords,
) -> MbeirTask:
    """Keeps the queries that have right candidates in a pool; lists unknown candidates and queries without any."""
    kept, sought, relevant = [], [], []
    known = {query.id for query in queries}
    for qid in judged.keys() - known:
        bad.add(qid, name, "unknown query: judgments of a query that is not in the file")
    for query in queries:
        right = []
        for did in judged.get(query.id, ()):
            if did in pool.rows or did in union.rows:
                right.append(did)
            else:
                bad.add(query.id, name, f"unknown candidate: {did} is in no pool")
        if not right:
            bad.add(query.id, name, "no right candidate: the query is left out")
            continue
        # Some data sets count candidates of others as right too; what the query asks for is of its own data set.
        own = next((did for did in right if int(did.split(":")[0]) == query.dataset), right[0])
        found = pool.items[pool.rows[own]] if own in pool.rows else union.items[union.rows[own]]
        kept.append(query)
        sought.append(found.modality)
        relevant.append(tuple(right))
    if not kept:
        raise DataError(f"{name}: none of {len(queries)} queries has a right candidate. Check qrels and pools.")
    return MbeirTask(name=name, queries=kept, sought=sought, relevant=relevant, pool=pool)


@dataclass(frozen=True, kw_only=True, eq=False)
class MbeirInputs:
    """What encoders need of B queries or candidates.

    Attributes:
        texts: B texts, "" where there is none.
        has_text: bool[B].
        pictures: B times uint8[H, W, 3], zeros where there is none.
        has_image: bool[B].
    """

    texts: list[str]
    has_text: np.ndarray
    pictures: list[np.ndarray]
    has_image: np.ndarray


def gather_inputs(
    items: Sequence[MbeirItem],
    pictures: Pictures,
    image_size: int,
    *,
    texts: Sequence[str] | None = None,
    resize: bool = True,
    bad: BadRecords | None = None,
) -> MbeirInputs:
    """Read texts and pictures of some queries or candidates.

    Args:
        items: B of them.
        pictures: of the folder.
        image_size: height and width of pictures, and of the zeros in place of a missing one.
        texts: what to say instead of the items' own texts, for example with instructions.
        resize: fit pictures into `image_size`; False keeps their own size, for an image processor that cuts them.
        bad: lists pictures that cannot be decoded, which then count as missing; None raises instead.

    Returns:
        Texts and pictures with their masks.

    Raises:
        BadImage: without `bad`, a picture that cannot be decoded (names the file).
        DataError: without `bad`, a picture that has vanished since the folder was read; a path that leads out of it.
    """
    spoken = [format_text(item.text) for item in items] if texts is None else list(texts)
    if len(spoken) != len(items):
        raise ConfigError(f"got {len(spoken)} texts for {len(items)} items, expected one each.")
    found: list[np.ndarray | None] = []
    for item in items:
        try:
            size = image_size if resize else None
            found.append(None if item.image is None else decode_image(pictures.read(item.image), size))
        except (BadImage, MissingImage) as error:
            if bad is None:
                raise type(error)(f"{item.id}, {item.image}: {error}") from error
            bad.add(item.id, str(item.image), f"unreadable image: {error}")
            found.append(None)
    nothing = np.zeros((image_size, image_size, 3), np.uint8)
    return MbeirInputs(
        texts=spoken,
        has_text=np.array([bool(text) for text in spoken]),
        pictures=[nothing if picture is None else picture for picture in found],
        has_image=np.array([picture is not None for picture in found]),
    )
