"""What token pooling and MUVERA's candidates keep of full MaxSim: bytes per document and recall@10.

    python experiments/search_multi_vector.py

2,000 drawn documents of 48 token vectors of width 64 (12 topics of 300, four noisy tokens each), and 100 queries of 8
noisy tokens of one document. Truth is MaxSim of all tokens with all documents. One JSON line per pooling factor,
searched exactly, and per number of candidates of MUVERA's encodings stored by EDEN at 4 bits, over documents pooled by
3. Drawn data says which setting is better, not how good it will be on yours. `--preset tiny` is a small copy for tests.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from erel_jax.interaction import divisions, maxsim, pool_tokens
from erel_jax.retrieval import search_tokens, token_corpus
from erel_jax.retrieval.codes import eden
from experiments.search_codes import recall

TOP, TOPICS, REPEATED = 10, 12, 4


def main(preset: str = "full", factors: tuple[int, ...] = (1, 2, 3, 4, 6)) -> dict[str, dict[str, Any]]:
    """Measures every setting and returns the rows by name."""
    count, asked, width = (2_000, 100, 64) if preset == "full" else (60, 8, 16)
    tokens, queries = drawn(count, asked, width)
    mask, query_mask = (np.ones(side.shape[:2], bool) for side in (tokens, queries))
    truth = _best(maxsim(queries, query_mask, tokens, mask))
    rows: dict[str, dict[str, Any]] = {}

    def keep(name: str, bytes_per_document: float, found: np.ndarray) -> None:
        rows[name] = {"name": name, "bytes_per_document": bytes_per_document, "recall@10": recall(found, truth)}
        print(json.dumps(rows[name]), flush=True)

    pooled = {factor: tuple(map(np.asarray, pool_tokens(tokens, mask, factor))) for factor in factors}
    for factor, (fewer, kept) in pooled.items():
        size = 4.0 * kept.sum() * width / count
        keep(f"pooled_{factor}", size, _best(maxsim(queries, query_mask, fewer, kept)))
    parts = divisions(width, repetitions=20 if preset == "full" else 2, planes=4, projected=8)
    corpus = token_corpus(*pooled[3], parts=parts, code=eden(parts.width, 4))
    print(f"  {corpus.describe()}", file=sys.stderr)
    size = 4.0 * pooled[3][1].sum() * width / count + corpus.code.bytes_per_vector
    for candidates in (20, 50, 100, 200):
        found = search_tokens(corpus, queries, query_mask, TOP, candidates=candidates).rows
        keep(f"pooled_3_muvera_{candidates}", size, found)
    return rows


def drawn(count: int, asked: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32[N, 48, E] documents and float32[Q, 8, E] queries of unit vectors."""
    draw = np.random.default_rng(seed)
    topics = draw.standard_normal((300, width))
    about = np.stack([draw.choice(len(topics), TOPICS, replace=False) for _ in range(count)])
    # What a document says of its topic is its own; the tokens that repeat it differ a little.
    own = topics[about] + 0.6 * draw.standard_normal((count, TOPICS, width))
    tokens = np.repeat(own, REPEATED, axis=1) + 0.4 * draw.standard_normal((count, TOPICS * REPEATED, width))
    which = np.stack([draw.choice(TOPICS, 8, replace=False) for _ in range(asked)])
    queries = own[np.arange(asked)[:, None], which] + 0.6 * draw.standard_normal((asked, 8, width))
    return _unit(tokens), _unit(queries)


def _best(scores: Any) -> np.ndarray:
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :TOP]


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    main(parser.parse_args().preset)
