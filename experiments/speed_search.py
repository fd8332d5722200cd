"""Search beside faiss, over a million drawn vectors: exact through an int8 screen, and in inverted lists.

    pip install -e '.[peers]' && python experiments/speed_search.py
    python experiments/speed_search.py --rows ivf_vs_faiss_ivf_sq8 --preset small

Vectors are clustered and of unequal spectrum (400 centers, spectrum 1/√(1 + i/8), all of length 1), queries are noisy
copies of rows. Rows: `exact_vs_faiss_flat` (batches of 64), the same at batches of 1 and 1,024, and
`exact_vs_faiss_sq8`, against faiss' 8-bit scalar quantizer; `ivf_vs_faiss_ivf_sq8` (`speed_lists.py`), lists of int8
codes on both sides, at batches of 64 and 1,024. `--preset small` takes 200,000 vectors. Milliseconds per batch,
`queries_per_second` of both, and `recall` of ours and theirs against `search_exact`; both run on all cores.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax.host_memory import keep_freed_memory
from erel_jax.retrieval import screened_corpus, search_exact, search_screened
from experiments.search_codes import recall
from experiments.side_by_side import alternate, row
from experiments.speed_lists import lists_rows

CENTERS, NOISE, QUERY_NOISE = 400, 0.7, 0.5
TOP = 10


ROWS = ("exact_vs_faiss_flat", "exact_vs_faiss_sq8", "ivf_vs_faiss_ivf_sq8")
SIZES = {"full": (1_000_000, 256, 5, 1024), "small": (200_000, 256, 5, 512), "tiny": (2_000, 32, 1, 16)}
"""Vectors, width, measured pairs, lists."""


def main(
    preset: str = "full", batches: tuple[int, ...] = (64, 1, 1024), rows: tuple[str, ...] | None = None
) -> dict[str, dict]:
    """Measures rows, None for all, and returns them by name.

    The tiny preset has no peer, times ours against exact search, and measures lists only where they are named.
    """
    rows = (ROWS[:1] if preset == "tiny" else ROWS) if rows is None else rows
    count, width, pairs, lists = SIZES[preset]
    vectors, queries = drawn(count, width, max(*batches, 512))
    found: dict[str, dict] = {}
    if set(rows) & set(ROWS[:2]):
        found |= _exact_rows(preset, vectors, queries, batches, pairs, rows)
    if ROWS[2] in rows:
        found |= lists_rows(vectors, queries, tuple(b for b in batches if b > 1), lists=lists, pairs=pairs)
    return found


def _exact_rows(
    preset: str, vectors: np.ndarray, queries: np.ndarray, batches: tuple[int, ...], pairs: int, wanted: tuple[str, ...]
) -> dict[str, dict]:
    count, width = vectors.shape
    corpus = screened_corpus(vectors)
    peers = {"flat": _exactly(vectors)} if preset == "tiny" else faiss_indexes(vectors)
    peers = {peer: search for peer, search in peers.items() if f"exact_vs_faiss_{peer}" in wanted}
    rows: dict[str, dict] = {}
    for peer, search in peers.items():
        for batch in batches if peer == "flat" else batches[:1]:
            part = queries[:batch]

            def ours(part: np.ndarray = part, batch: int = batch) -> np.ndarray:
                return search_screened(corpus, part, TOP, batch=min(batch, 64)).rows

            def theirs(part: np.ndarray = part, search: Any = search) -> np.ndarray:
                return search(part)

            left, right = alternate(ours, theirs, pairs=pairs, warmup=1, quick=3 if batch <= 64 else 1)
            name = f"exact_vs_faiss_{peer}" + ("" if batch == batches[0] else f"_b{batch}")
            truth = search_exact(vectors, part, TOP).rows
            speeds = {side: batch / float(np.median(times)) for side, times in (("ours", left), ("peer", right))}
            recalls = {"ours": recall(ours(), truth), "peer": recall(theirs(), truth)}
            rows[name] = row(name, left, right, queries_per_second=speeds, recall=recalls, rows=count, width=width)
    return rows


def drawn(count: int, width: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32[N, E] vectors and float32[Q, E] queries of length 1."""
    draw = np.random.default_rng(seed)
    spectrum = (1 / np.sqrt(1 + np.arange(width) / 8)).astype(np.float32)
    centers = draw.standard_normal((CENTERS, width), np.float32)
    vectors = np.empty((count, width), np.float32)
    for start in range(0, count, 100_000):
        part = vectors[start : start + 100_000]
        noise = draw.standard_normal(part.shape, np.float32)
        part[:] = (centers[draw.integers(0, CENTERS, len(part))] + NOISE * noise) * spectrum
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    near = vectors[draw.integers(0, count, queries)]
    asked = near + QUERY_NOISE * draw.standard_normal(near.shape, np.float32) * spectrum / np.linalg.norm(spectrum)
    return vectors, asked / np.linalg.norm(asked, axis=1, keepdims=True)


def faiss_indexes(vectors: np.ndarray) -> dict[str, Any]:
    """The peers: `search(queries) -> int64[Q, TOP]` by name."""
    import faiss

    flat = faiss.IndexFlatIP(vectors.shape[1])
    coded = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    coded.train(vectors[:100_000])
    for index in (flat, coded):
        index.add(vectors)
    return {
        name: lambda asked, index=index: index.search(asked, TOP)[1] for name, index in (("flat", flat), ("sq8", coded))
    }


def _exactly(vectors: np.ndarray) -> Any:
    return lambda asked: search_exact(vectors, asked, TOP).rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=tuple(SIZES), default="full")
    parser.add_argument("--rows", nargs="+", choices=ROWS)
    options = parser.parse_args()
    keep_freed_memory()
    main(options.preset, rows=tuple(options.rows) if options.rows else None)
