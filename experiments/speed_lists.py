"""The row `ivf_vs_faiss_ivf_sq8` of `speed_search.py`: inverted lists of int8 codes on both sides.

Both sides have the same number of lists. Ours picks rows by three bits per dimension, scores them by their int8 codes
and the best 16 of those again with the vectors as they are, and takes the fewest probes with recall@10 of .99 against
exact search. Where faiss' codes (8 bits per dimension of what is left over) do not reach .99 with any number of probes,
it takes the fewest with which it stays within .001 of its best. `refined` is faiss with its best 16 scored again too,
which costs it little and spares it probes. Ours looks into fewer lists where one is clearly the nearest (`margin_for`,
fitted to other queries than those that are measured).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from erel_jax.retrieval import lists_of, rescored, search_exact, search_inverted
from erel_jax.retrieval.codes import Inverted, inverted, margin_for
from experiments.search_codes import recall
from experiments.side_by_side import alternate, row

TOP, AGAIN, WANTED, SAMPLE_PER_LIST = 10, 16, 0.99, 40
PROBES = (1, 2, 3, 4, 5, 6, 8, 12, 16)
MARGIN_RECALL = 0.99
Side = Callable[[np.ndarray, int], np.ndarray]


def lists_rows(
    vectors: np.ndarray, queries: np.ndarray, batches: tuple[int, ...], *, lists: int, pairs: int
) -> dict[str, dict]:
    """Measures the row for every batch size and returns them by name."""
    asked, others = queries[:256], queries[-256:]
    truth = search_exact(vectors, asked, TOP).rows
    code, sides = _sides(vectors, others, lists)
    tried = [probes for probes in PROBES if probes <= lists]
    recalls = {name: {probes: recall(side(asked, probes), truth) for probes in tried} for name, side in sides.items()}
    probes = {name: _fewest(found, min(WANTED, max(found.values()) - 0.001)) for name, found in recalls.items()}
    found = {name: recalls[name][probes[name]] for name in sides}
    rows = {}
    for batch in batches:
        turns = {name: partial(side, queries[:batch], probes[name]) for name, side in sides.items()}
        calls = max(1, 1280 // batch)
        times = alternate(turns["ours"], turns["peer"], pairs=pairs, calls=calls)
        beside = alternate(turns["ours"], turns["refined"], pairs=pairs, calls=calls)
        name = "ivf_vs_faiss_ivf_sq8" + ("" if batch == batches[0] else f"_b{batch}")
        speeds = {side: batch / float(np.median(each)) for side, each in zip(("ours", "peer"), times, strict=True)}
        about: dict[str, Any] = {
            "queries_per_second": speeds | {"refined": batch / float(np.median(beside[1]))},
            "ratio_refined": float(np.median([theirs / ours for ours, theirs in zip(*beside, strict=True)])),
            "recall": found,
            "probes": probes,
            "margin": code.margin,
            "bytes_per_vector": {"ours": _bytes(code), "peer": vectors.shape[1] + 8},
        }
        rows[name] = row(name, *times, **about, lists=lists, rows=len(vectors), width=vectors.shape[1])
    return rows


def _sides(vectors: np.ndarray, others: np.ndarray, lists: int) -> tuple[Inverted, dict[str, Side]]:
    """Our code, and what is timed: from queries and a number of probes to rows int[Q, TOP]."""
    sample = vectors[: SAMPLE_PER_LIST * lists]
    code = inverted(sample, lists)
    stored = code.encode(vectors)
    filed = lists_of(code, stored)
    code = dataclasses.replace(code, probes=min(PROBES[-1], lists))
    owners = stored["list"][search_exact(vectors, others, TOP).rows]
    code = dataclasses.replace(code, margin=margin_for(code, others, owners, recall=MARGIN_RECALL))
    peer, refined = _faiss(vectors, sample, lists)

    def ours(part: np.ndarray, probes: int) -> np.ndarray:
        hits = search_inverted(dataclasses.replace(code, probes=probes), filed, part, AGAIN)
        return rescored(hits, vectors, part, TOP).rows

    def theirs(index: Any, part: np.ndarray, probes: int) -> np.ndarray:
        peer.nprobe = probes
        return index.search(part, TOP)[1]

    return code, {"ours": ours, "peer": partial(theirs, peer), "refined": partial(theirs, refined)}


def _bytes(code: Inverted) -> int:
    """The code, its screen (`retrieval.bit_screen`), and the vectors."""
    return code.bytes_per_vector + 3 * code.width // 8 + 8 + 4 * code.width


def _fewest(recalls: dict[int, float], wanted: float) -> int:
    """The fewest probes of the recall wanted, or those of the best."""
    enough = [probes for probes, found in recalls.items() if found >= wanted]
    return enough[0] if enough else max(recalls, key=lambda probes: recalls[probes])


def _faiss(vectors: np.ndarray, sample: np.ndarray, lists: int) -> tuple[Any, Any]:
    """The peer, and around it the one that scores its best 16 again."""
    import faiss

    width = vectors.shape[1]
    coarse = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFScalarQuantizer(
        coarse, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.train(sample)
    refined = faiss.IndexRefineFlat(index)
    refined.k_factor = AGAIN / TOP
    refined.add(vectors)
    return index, refined
