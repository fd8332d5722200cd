"""Measures of result lists beside ranx: 100,000 queries with 100 results each.

    pip install -e '.[peers]' && python experiments/speed_metrics.py

Both sides have their input ready, ours as arrays of ids, ranx as its own `Qrels` and `Run`, already sorted and with the
same queries; both compute the same seven measures from there to floats. Row `ranx`: milliseconds, `difference` is the
largest between a measure of ours and of theirs, `looking_up_ms` the part of ours that finds the grade of each result.
ranx compiles for all cores with numba, before the first measured call.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax.host_memory import keep_freed_memory
from erel_jax.metrics import judged_lists, list_metrics
from experiments.side_by_side import alternate, row

SAME = {
    "ndcg@10": "ndcg@10",
    "ndcg@100": "ndcg@100",
    "ap@100": "map@100",
    "rr@10": "mrr@10",
    "recall@100": "recall@100",
    "precision@10": "precision@10",
    "success@10": "hit_rate@10",
}


def main(preset: str = "full", pairs: int = 5) -> dict:
    """Measures the row and returns it; the tiny preset has no peer and times ours against itself."""
    queries, depth, corpus = (100_000, 100, 1_000_000) if preset == "full" else (200, 20, 500)
    results, relevant, grades = drawn(queries, depth, corpus)

    def ours() -> dict[str, float]:
        return list_metrics(judged_lists(results, relevant, grades), tuple(SAME))

    peer = ours if preset == "tiny" else ranx(results, relevant, grades)
    left, right = alternate(ours, peer, pairs=pairs, warmup=1)
    begun = time.perf_counter()
    jax.block_until_ready(judged_lists(results, relevant, grades).grades)
    looking_up = 1e3 * (time.perf_counter() - begun)
    found, theirs = ours(), peer()
    difference = max(abs(found[name] - theirs[name]) for name in SAME)
    return row("ranx", left, right, difference=difference, looking_up_ms=looking_up, queries=queries, depth=depth)


def drawn(queries: int, depth: int, corpus: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Results int64[Q, K], 1 to 10 judged ids int64[Q, 10] of grade 1 to 3, half of them found."""
    draw = np.random.default_rng(0)
    starts = draw.integers(0, corpus, (queries, 1))
    results = (starts + np.cumsum(draw.integers(1, corpus // depth // 2, (queries, depth)), axis=1)) % corpus
    found = np.argsort(draw.random((queries, depth), np.float32), axis=1)[:, :10]
    relevant = np.take_along_axis(results, found, axis=1)
    relevant[:, ::2] = corpus + np.arange(5)
    relevant[np.arange(10) >= draw.integers(1, 11, (queries, 1))] = -1
    return results, relevant, draw.integers(1, 4, relevant.shape).astype(np.float32)


def ranx(results: np.ndarray, relevant: np.ndarray, grades: np.ndarray) -> Callable[[], dict[str, float]]:
    """The peer's evaluation of the same lists."""
    from ranx import Qrels, Run, evaluate

    names = [f"q{query:06d}" for query in range(len(results))]
    scores = np.arange(results.shape[1], 0, -1, dtype=np.float64)
    run = Run.from_dict(
        {
            q: dict(zip(row.astype(str).tolist(), scores.tolist(), strict=True))
            for q, row in zip(names, results, strict=True)
        }
    )
    qrels = Qrels.from_dict(
        {
            q: {str(item): int(grade) for item, grade in zip(row, given, strict=True) if item >= 0}
            for q, row, given in zip(names, relevant.tolist(), grades.tolist(), strict=True)
        }
    )

    def evaluated() -> dict[str, float]:
        found = evaluate(qrels, run, list(SAME.values()))
        return {ours: float(found[theirs]) for ours, theirs in SAME.items()}

    return evaluated


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--pairs", type=int, default=5, help="measured pairs of calls")
    options = parser.parse_args()
    keep_freed_memory()
    main(options.preset, options.pairs)
