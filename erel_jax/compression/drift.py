"""How far a compressed encoder has moved from its source, measured on rows that both encode.

Two numbers matter to a search: the cosine of each row's two embeddings, and whether a compressed query still finds,
among the source's embeddings, the neighbors that the source finds. The first is a gate that needs no labels; the second
shows what the drift costs where it counts. With labels, compare metrics instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.compression.int8 import cosine_drift
from erel_jax.errors import ConfigError, NonFiniteError

PyTree = Any
Encode = Callable[[PyTree], jax.Array]

GATE = 0.995


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What `drift` found.

    Attributes:
        cosine_mean, cosine_min: of the cosines of source and compressed embeddings, row by row.
        recall: share of the `k` nearest rows that the compressed query still finds, see `drift`.
        k: neighbors compared.
        rows: rows measured.
        gate: lowest mean cosine that passes.
    """

    cosine_mean: float
    cosine_min: float
    recall: float
    k: int
    rows: int
    gate: float

    @property
    def passed(self) -> bool:
        """Whether the mean cosine reaches the gate."""
        return self.cosine_mean >= self.gate

    def describe(self) -> str:
        """One line for a log or a report."""
        verdict = "passes" if self.passed else "fails"
        return (
            f"cosine mean {self.cosine_mean:.5f}, min {self.cosine_min:.5f}, recall@{self.k} of compressed queries "
            f"against the source {self.recall:.4f} over {self.rows} rows: {verdict} the gate of {self.gate}"
        )


def drift(
    source: Encode, compressed: Encode, rows: PyTree, *, batch: int = 64, k: int = 10, gate: float = GATE
) -> Drift:
    """Encodes rows with both encoders and compares.

    Args:
        source: from inputs with a leading axis B to embeddings float[B, E], for example
            `jax.jit(lambda x: encoder.module.apply(params, x).embedding)`.
        compressed: the same of the compressed encoder, with the same E.
        rows: inputs with a leading axis N, a few hundred rows in all.
        batch: rows encoded at a time; the last batch is filled up with its last row, so that one program serves all.
        k: neighbors compared.
        gate: lowest mean cosine that passes.

    Returns:
        `Drift`. Its recall is the mean, over rows, of the share of the k source rows nearest by cosine to the row's
        source embedding (itself left out, equal ones in row order) that are also among the k source rows nearest to
        its compressed embedding.

    Raises:
        ConfigError: fewer than k + 1 rows, or embeddings of different shapes.
        NonFiniteError: an embedding holds NaN or infinity.
    """
    total = jax.tree.leaves(rows)[0].shape[0]
    if batch < 1 or k not in range(1, total):
        raise ConfigError(f"got {total} rows for k={k} neighbors in batches of {batch}, expected more rows than k.")
    ours, theirs = (_encoded(encode, rows, total, batch) for encode in (source, compressed))
    for name, found in (("source", ours), ("compressed", theirs)):
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if bad.size:
            raise NonFiniteError(f"{name} embeddings of rows {bad[:5].tolist()} ({bad.size} in all) are not finite.")
    cosines = cosine_drift(jnp.asarray(ours), jnp.asarray(theirs))
    corpus = _unit(ours)
    wanted, found = (_neighbors(_unit(queries), corpus, k) for queries in (ours, theirs))
    shared = (wanted[:, :, None] == found[:, None, :]).any(axis=2)
    return Drift(
        cosine_mean=cosines["mean"],
        cosine_min=cosines["min"],
        recall=float(shared.mean()),
        k=k,
        rows=total,
        gate=gate,
    )


def _encoded(encode: Encode, rows: PyTree, total: int, batch: int) -> np.ndarray:
    parts = []
    for start in range(0, total, batch):
        taken = np.minimum(np.arange(start, start + batch), total - 1)
        part = encode(jax.tree.map(lambda x, taken=taken: jnp.asarray(np.asarray(x)[taken]), rows))
        parts.append(np.asarray(part, np.float32)[: total - start])
    return np.concatenate(parts)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _neighbors(queries: np.ndarray, corpus: np.ndarray, k: int) -> np.ndarray:
    scores = queries @ corpus.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
