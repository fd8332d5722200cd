"""Search over documents of several vectors: candidates by one inner product, then MaxSim of those alone.

    corpus = token_corpus(*pool_tokens(tokens, mask, 3))       # a third of the vectors
    print(corpus.describe())
    hits = search_tokens(corpus, query_tokens, query_mask, 10, candidates=100)

MUVERA's encodings of a document and a query are single vectors whose inner product stands for MaxSim, so that any code
can hold them. The documents' tokens are read for the candidates alone and may stay mapped from disk.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.interaction.fixed_dimensional import (
    Divisions,
    divisions,
    fixed_dimensional_documents,
    fixed_dimensional_queries,
)
from erel_jax.interaction.maxsim import maxsim
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.coded import search_coded
from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.codes.floats import Float32
from erel_jax.retrieval.hits import Hits


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenCorpus:
    """Documents as tokens and as encodings. Made by `token_corpus`.

    Attributes:
        tokens: float[N, T, E], in memory or mapped from disk.
        mask: bool[N, T], False for padding.
        parts: divisions that queries share with the documents.
        code: how encodings are stored.
        stored: the stored encodings.
    """

    tokens: np.ndarray
    mask: np.ndarray
    parts: Divisions
    code: Code
    stored: Mapping[str, np.ndarray]

    def describe(self) -> str:
        """Its sizes, in one line."""
        kept = int(np.asarray(self.mask).sum())
        token_bytes = kept * self.tokens.shape[2] * self.tokens.dtype.itemsize / len(self.tokens)
        return (
            f"{len(self.tokens)} documents with {kept / len(self.tokens):.1f} vectors of width {self.tokens.shape[2]} "
            f"({token_bytes:.0f} bytes), encodings of width {self.parts.width} ({self.code.bytes_per_vector} bytes)"
        )


def token_corpus(
    tokens: np.ndarray,
    mask: np.ndarray,
    *,
    parts: Divisions | None = None,
    code: Code | None = None,
    fill_empty: bool = False,
    block: int = 256,
) -> TokenCorpus:
    """Encodes documents for `search_tokens`.

    Args:
        tokens: float[N, T, E], in memory or mapped from disk, read block by block; every document has one or more.
        mask: bool[N, T], False for padding.
        parts: divisions for the encodings; those of `divisions(E)` when None.
        code: how to store encodings of width `parts.width`; `Float32` when None.
        fill_empty: see `fixed_dimensional_documents`.
        block: documents encoded at a time.

    Raises:
        ConfigError, NonFiniteError: shapes or the code do not fit, a document has no tokens, or tokens are not finite.
    """
    if np.ndim(tokens) != 3 or np.shape(mask) != np.shape(tokens)[:2] or not len(tokens) or block < 1:
        raise ConfigError(
            f"tokens have shape {np.shape(tokens)} and mask {np.shape(mask)}, block is {block}; expected [N, T, E], "
            "[N, T], and 1 or more."
        )
    there = np.asarray(mask, bool)
    if len(empty := np.flatnonzero(~there.any(axis=1))):
        raise ConfigError(f"{len(empty)} documents have no tokens, the first is row {empty[0]}. Leave them out.")
    parts = divisions(tokens.shape[2]) if parts is None else parts
    code = Float32(parts.width) if code is None else code
    if code.width != parts.width:
        raise ConfigError(f"the code is for width {code.width}, but the encodings have {parts.width}.")
    encode = jax.jit(partial(fixed_dimensional_documents, fill_empty=fill_empty))
    stored: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(tokens), block):
        rows, inside = np.asarray(tokens[start : start + block], np.float32), there[start : start + block]
        check_vectors(f"tokens of documents from row {start}", rows[inside])
        fill = min(block, len(tokens)) - len(rows)
        padded = np.pad(rows, ((0, fill), (0, 0), (0, 0))), np.pad(inside, ((0, fill), (0, 0)))
        encoded = np.asarray(encode(parts, *padded))[: len(rows)]
        for name, values in code.encode(encoded).items():
            stored.setdefault(name, []).append(values)
    return TokenCorpus(
        tokens=tokens,
        mask=there,
        parts=parts,
        code=code,
        stored={name: np.concatenate(values) for name, values in stored.items()},
    )


def search_tokens(
    corpus: TokenCorpus,
    queries: np.ndarray,
    query_mask: np.ndarray,
    k: int,
    *,
    candidates: int = 100,
    mask: np.ndarray | None = None,
) -> Hits:
    """The K documents of largest MaxSim among candidates found by encodings.

    Args:
        corpus: from `token_corpus`.
        queries: float[Q, I, E].
        query_mask: bool[Q, I], False for padding; every query has one token or more.
        k: hits per query.
        candidates: documents per query whose MaxSim is computed, K or more; at N or more the search is exact.
        mask: bool[N], documents that may be found; None allows all.

    Returns:
        The hits; scores are exact MaxSim, ties in row order, row -1 where nothing is left.

    Raises:
        ConfigError, NonFiniteError: shapes that do not fit, k below 1 or above the candidates, a query without tokens.
    """
    queries, asked = np.asarray(queries, np.float32), np.asarray(query_mask, bool)
    width = corpus.tokens.shape[2]
    if queries.ndim != 3 or queries.shape[2] != width or asked.shape != queries.shape[:2] or not len(queries):
        raise ConfigError(
            f"queries have shape {queries.shape} and mask {asked.shape}, expected [Q, I, {width}], [Q, I]."
        )
    check_count(k)
    if candidates < k or not asked.any(axis=1).all():
        raise ConfigError(f"got {candidates} candidates for k={k} and queries of {asked.sum(1).min()} tokens or more; "
                          "expected k candidates or more, and a token in each query.")  # fmt: skip
    check_vectors("query tokens", queries[asked])
    encoded = np.asarray(fixed_dimensional_queries(corpus.parts, jnp.asarray(queries), jnp.asarray(asked)))
    limit = min(candidates, len(corpus.tokens))
    near = np.sort(search_coded(corpus.code, corpus.stored, encoded, limit, mask=mask).rows, axis=1)
    scores = np.full(near.shape, -np.inf, np.float32)
    for number, rows in enumerate(near):
        own = np.maximum(rows, 0)
        # Candidates stand in row order, so that equal scores come out in row order; padding may hold anything.
        inside = corpus.mask[own]
        tokens = np.where(inside[:, :, None], np.asarray(corpus.tokens[own], np.float32), 0)
        found = np.asarray(_exactly(queries[number : number + 1], asked[number : number + 1], tokens, inside))[0]
        scores[number] = np.where(rows >= 0, found, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    missing = k - best.shape[1]
    scores, rows = (np.take_along_axis(side, best, axis=1) for side in (scores, near))
    return Hits(
        rows=np.pad(rows, ((0, 0), (0, missing)), constant_values=-1).astype(np.int32),
        scores=np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf),
    )


@jax.jit
def _exactly(query: jax.Array, asked: jax.Array, tokens: jax.Array, inside: jax.Array) -> jax.Array:
    return maxsim(query, asked, tokens, inside)
