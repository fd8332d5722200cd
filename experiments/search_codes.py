"""What vector codes keep of exact search: bytes per vector, recall@10, and the same after scoring 40 hits again.

    python experiments/search_codes.py

20,000 drawn unit vectors of width 256 (400 centers, spectrum 1/√(1 + i/8), noise .7 within a cluster, a common offset)
and 500 noisy copies as queries, scored in seconds. Drawn data says which code is better, not how good it will be on
yours. Codes that are fitted see half of the rows at most; `inverted_int8` looks into all lists here. One JSON line per
code; `--preset tiny` is a small copy for tests.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax.retrieval import Hits, rescored, search_coded, search_exact
from erel_jax.retrieval.codes import (
    Binary,
    Float32,
    Int8PerVector,
    eden,
    int8_per_dimension,
    inverted,
    principal,
    product,
    residual,
    rotated,
    truncated,
)

TOP, AGAIN = 10, 40


def main(preset: str = "full", seed: int = 0) -> dict[str, dict]:
    """Measures every code and returns the rows by name."""
    count, width, asked = (20_000, 256, 500) if preset == "full" else (500, 32, 20)
    vectors, queries = drawn(count, width, asked, seed)
    truth = search_exact(vectors, queries, TOP).rows
    codes = {
        "float32": Float32(width),
        "int8_per_vector": Int8PerVector(width),
        "int8_per_dimension": int8_per_dimension(vectors),
        **{f"eden_{bits}": eden(width, bits, seed=seed) for bits in (4, 3, 2, 1)},
        "binary": Binary(width),
        **trained(vectors, seed),
    }
    rows = {}
    for name, code in codes.items():
        hits = search_coded(code, code.encode(vectors), queries, AGAIN)
        first = Hits(rows=hits.rows[:, :TOP], scores=hits.scores[:, :TOP])
        again = rescored(hits, vectors, queries, TOP)
        recalls = {"recall@10": recall(first.rows, truth), "recall@10_rescored": recall(again.rows, truth)}
        rows[name] = {"name": name, "bytes_per_vector": code.bytes_per_vector, **recalls}
        print(json.dumps(rows[name]), flush=True)
    return rows


def trained(vectors: np.ndarray, seed: int) -> dict:
    """Codes that are fitted to a sample, all with as many bytes as `Binary` where they can be."""
    width = vectors.shape[1]
    sample, parts = vectors[: max(300, min(10_000, len(vectors) // 2))], width // 8
    half = principal(sample, width // 2)
    return {
        "int8_rotated": rotated(width, Int8PerVector, seed=seed),
        "truncated_half_int8": truncated(width, width // 2, Int8PerVector),
        "principal_half_int8": principal(sample, width // 2, Int8PerVector),
        "principal_half_product": principal(
            sample, width // 2, lambda _: product(half.kept(sample), parts, seed=seed, rotation="random")
        ),
        "product": product(sample, parts, rotation="none", seed=seed),
        "product_rotated": product(sample, parts, rotation="random", seed=seed),
        "product_fitted": product(sample, parts, rotation="fitted", seed=seed),
        "product_4_bits": product(sample, 2 * parts, bits=4, rotation="random", seed=seed),
        "residual": residual(sample, parts, seed=seed),
        "inverted_int8": inverted(sample, max(4, len(vectors) // 200), seed=seed, probes=1),
    }


def drawn(count: int, width: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """float32[N, E] vectors and float32[Q, E] queries of length 1."""
    draw = np.random.default_rng(seed)
    spectrum = 1 / np.sqrt(1 + np.arange(width) / 8)
    centers = draw.standard_normal((max(2, count // 50), width))
    offset = 0.75 * np.sign(draw.standard_normal(width)) * spectrum
    noise = 0.7 * draw.standard_normal((count, width))
    vectors = _unit((centers[draw.integers(0, len(centers), count)] + noise) * spectrum + offset)
    near = vectors[draw.integers(0, count, queries)]
    noise = draw.standard_normal(near.shape) * spectrum / np.linalg.norm(spectrum)
    return vectors, _unit(near + 0.5 * noise)


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true rows that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    main(options.preset, options.seed)
