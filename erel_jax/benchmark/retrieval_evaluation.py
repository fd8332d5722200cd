"""Evaluates encoded pictures and texts: metrics both ways, a gallery of examples, and the latency of one query."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.benchmark.report.gallery import GalleryQuery, GalleryResult
from erel_jax.data.images import encode_png
from erel_jax.data.retrieval import RetrievalSplit
from erel_jax.layers import l2_normalize
from erel_jax.metrics.retrieval import two_way_retrieval
from erel_jax.profiling import Timing, latency
from erel_jax.sharding import Step, compile_step

KS = (1, 5, 10)
TOP = 5
GALLERY = 6
QUERIES = 200


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Unit vectors of a split: images float32[N, E] and texts float32[T, E]."""

    images: jax.Array
    texts: jax.Array


def evaluate(vectors: Vectors, split: RetrievalSplit) -> dict[str, float]:
    """Recall@k (hit style) and reciprocal rank both ways, over the whole split.

    Returns:
        `text_to_image_recall@k`, `image_to_text_recall@k`, their mean `recall@k`, and the same for `mrr`. A text has
        all its pictures as right answers. `quarter_recall@10` is `recall@10` when only the first quarter of each
        vector's numbers is kept.
    """
    texts, images = (_first_quarter(side) for side in (vectors.texts, vectors.images))
    figures = evaluate_scores(vectors.texts, vectors.images, split)
    return {**figures, "quarter_recall@10": evaluate_scores(texts, images, split)["recall@10"]}


@jax.jit
def _first_quarter(vectors: jax.Array) -> jax.Array:
    """The first quarter of each unit vector, again of length 1; zeros after it, so that ranking is compiled once."""
    width = vectors.shape[1]
    return l2_normalize(jnp.where(jnp.arange(width)[None] < max(1, width // 4), vectors, 0))


def evaluate_scores(texts: jax.Array, images: jax.Array, split: RetrievalSplit) -> dict[str, float]:
    """`evaluate` for any two matrices whose dot products are the scores."""
    owner = np.asarray(split.text_of_image, np.int32)
    figures = two_way_retrieval(texts, images, np.arange(len(split.texts), dtype=np.int32), owner, ks=KS)
    renamed = {
        name.replace("query_to_item/", "text_to_image_").replace("item_to_query/", "image_to_text_"): value
        for name, value in figures.items()
    }
    return {name: value for name, value in renamed.items() if "fraction" not in name and "ndcg" not in name}


def gallery(split: RetrievalSplit, vectors: Vectors) -> list[GalleryQuery]:
    """Texts spread over the split, each with its best pictures."""
    chosen = np.linspace(0, len(split.texts) - 1, GALLERY).astype(int)
    scores = np.asarray(vectors.texts[chosen] @ vectors.images.T)
    queries = []
    for row, text in zip(scores, chosen, strict=True):
        best = np.lexsort((np.arange(len(row)), -row))[:TOP]
        results = [
            GalleryResult(
                text=split.texts[split.text_of_image[i]],
                png=encode_png(np.asarray(split.images[i])),
                score=float(row[i]),
                relevant=bool(split.text_of_image[i] == text),
            )
            for i in best
        ]
        queries.append(GalleryQuery(query_text=split.texts[text], query_png=None, results=results))
    return queries


def query_latency(problem: Any, encode: Step, params: Any, vectors: Vectors) -> Timing:
    """One text at a time: tokenize, encode, score every picture of the test split, take the ten best."""
    texts, images = problem.split("test").texts, vectors.images
    limit = problem.tokens["test"]["ids"].shape[1]
    k = min(10, images.shape[0])
    search = compile_step(lambda query, items: jax.lax.top_k(jnp.matmul(query, items.T), k))

    def answer(text: str) -> Any:
        inputs = problem.towers["text"].tokenizer.encode([text], max_length=limit)
        return search(encode(params, inputs), images)

    return latency(answer, lambda i: (texts[i % len(texts)],), queries=QUERIES)
