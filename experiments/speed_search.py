"""Exact search through an int8 screen beside faiss, over a million drawn vectors.

    pip install -e '.[peers]' && python experiments/speed_search.py

Vectors are clustered and of unequal spectrum (400 centers, spectrum 1/√(1 + i/8), all of length 1), queries are noisy
copies of rows. Rows: `exact_vs_faiss_flat` (batches of 64), the same at batches of 1 and 1,024, and
`exact_vs_faiss_sq8`, against faiss' 8-bit scalar quantizer. Milliseconds per batch, `queries_per_second` of both, and
`recall` of ours and theirs against `search_exact`; both run on all cores.
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

CENTERS, NOISE, QUERY_NOISE = 400, 0.7, 0.5
TOP = 10


def main(preset: str = "full", batches: tuple[int, ...] = (64, 1, 1024)) -> dict[str, dict]:
    """Measures every row and returns them by name; the tiny preset has no peer and times ours against exact search."""
    count, width, pairs = (1_000_000, 256, 5) if preset == "full" else (2_000, 32, 1)
    vectors, queries = drawn(count, width, max(batches))
    corpus = screened_corpus(vectors)
    peers = faiss_indexes(vectors) if preset == "full" else {"flat": _exactly(vectors)}
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
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    options = parser.parse_args()
    keep_freed_memory()
    main(options.preset)
