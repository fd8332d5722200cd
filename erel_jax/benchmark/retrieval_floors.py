"""The floors of the retrieval task: what a person gets without training anything.

- `chance`: random vectors, the score of knowing nothing.
- `training_neighbors`: a picture is described by the texts of the training pictures nearest to it in raw pixels, a text
  by its TF-IDF vector; both live in the same TF-IDF space, so each finds the other by a dot product.

The frozen encoders' own zero-shot score is the third floor; it runs as the method `frozen`.
"""

import time
from typing import Any

import numpy as np

from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.record import Record
from erel_jax.benchmark.retrieval_evaluation import evaluate_scores
from erel_jax.benchmark.retrieval_problem import Problem
from erel_jax.data.retrieval import RetrievalSplit
from erel_jax.profiling import PeakMeter, describe_environment, environment_reasons, latency

NEIGHBORS = 5
SIDE = 16
BLOCK = 512


def floor_records(
    problem: Problem, command: str, messenger: Messenger, headline: str, dropped: dict[str, int]
) -> list[Record]:
    """One record per floor on the test split."""
    peak, environment = PeakMeter(), describe_environment(problem.config.precision)
    test = problem.split("test")
    chance = _chance(test)
    texts, images, describe = _training_neighbors(problem, messenger)
    floors = {
        "chance": (chance, lambda text: chance[0][:1] @ chance[1].T),
        "training_neighbors": ((texts, images), lambda text: describe([text]) @ images.T),
    }
    records = []
    for name, ((text_vectors, image_vectors), answer) in floors.items():
        begun = time.perf_counter()
        metrics = evaluate_scores(text_vectors, image_vectors, test)
        seconds = time.perf_counter() - begun
        timing = latency(answer, lambda i: (test.texts[i % len(test.texts)],), queries=50)
        measured = peak.read()
        records.append(
            Record(
                task="retrieval",
                data=problem.data.name,
                method=name,
                kind="floor",
                seed=0,
                metrics=metrics,
                headline_metric=headline,
                evaluated_queries=len(test.texts),
                command=command,
                trainable_parameters=0,
                total_parameters=0,
                environment=environment,
                peak_bytes=measured.bytes,
                peak_bytes_source=f"{measured.source}, all floors together",
                evaluate_seconds=seconds,
                query_seconds_p50=timing.p50,
                query_seconds_p99=timing.p99,
                bytes_per_item=float(image_vectors.shape[1] * 4),
                dropped=dropped,
                unavailable={
                    "encode_items_per_second": "the floor has no encoder",
                    "energy_joules": "a floor is not trained",
                    **environment_reasons(environment),
                },
            )
        )
    return records


def _chance(split: RetrievalSplit) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return tuple(generator.standard_normal((count, 64)).astype(np.float32) for count in (len(split.texts), len(split)))  # type: ignore[return-value]


def _training_neighbors(problem: Problem, messenger: Messenger) -> tuple[np.ndarray, np.ndarray, Any]:
    """TF-IDF vectors of the test texts, of the test pictures by their neighbors, and the text transform."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    train, test = problem.split("train"), problem.split("test")
    vectorizer = TfidfVectorizer(max_features=4096)
    try:
        train_texts: Any = vectorizer.fit_transform(train.texts)
    except ValueError:  # no text has a word of two letters: symbols and single letters are the words then
        vectorizer = TfidfVectorizer(max_features=4096, token_pattern=r"\S")
        train_texts = vectorizer.fit_transform(train.texts)

    def describe(texts: list[str]) -> np.ndarray:
        vectors: Any = vectorizer.transform(texts)
        return np.asarray(vectors.todense(), np.float32)

    known, parts = _pixels(train), []
    neighbors = min(NEIGHBORS, len(train))
    for start in range(0, len(test), BLOCK):
        similar = _pixels(test, start, start + BLOCK) @ known.T
        nearest = np.argpartition(-similar, neighbors - 1, axis=1)[:, :neighbors]
        rows = train.text_of_image[nearest]
        vectors = sum(np.asarray(train_texts[rows[:, n]].todense()) for n in range(neighbors))
        parts.append(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
        messenger.progress("training neighbors", min(start + BLOCK, len(test)), len(test))
    return describe(test.texts), np.concatenate(parts).astype(np.float32), describe


def _pixels(split: RetrievalSplit, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Centered unit vectors of shrunken gray pictures, float32[N, SIDE²]."""
    images = np.asarray(split.images[start:stop])
    step = max(1, images.shape[1] // SIDE)
    gray = images[:, : step * SIDE, : step * SIDE].astype(np.float32).mean(axis=3)
    side_h, side_w = gray.shape[1] // step, gray.shape[2] // step
    blocks = gray.reshape(len(gray), side_h, step, side_w, step).mean(axis=(2, 4)).reshape(len(gray), -1)
    centered = blocks - blocks.mean(axis=1, keepdims=True)
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
