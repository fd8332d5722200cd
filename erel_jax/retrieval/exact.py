"""Exact search: every row is scored in float32. Slow, simple, and what every faster search is measured against."""

import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_vectors
from erel_jax.retrieval.coded import search_coded
from erel_jax.retrieval.codes.floats import Float32
from erel_jax.retrieval.hits import Hits


def search_exact(
    vectors: np.ndarray, queries: np.ndarray, k: int, *, mask: np.ndarray | None = None, block: int = 16384
) -> Hits:
    """The K rows of largest inner product with each query.

    Args:
        vectors: float[N, E], in memory or mapped from disk; read block by block.
        queries: float[Q, E].
        k: hits per query.
        mask: bool[N], rows that may be found; None allows all.
        block: rows per step; memory is Q · (block + k) floats and a block of rows.

    Returns:
        The hits; with k above the number of rows allowed, the places left over have row -1.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, k or block is below 1, or the mask has another length.

    Ties stand in row order. Relation: `search_screened` finds the same several times as fast, with codes made before;
    `search_coded` searches rows stored in fewer bytes.
    """
    vectors = np.asanyarray(vectors)
    if vectors.ndim != 2 or block < 1:
        raise ConfigError(f"vectors have shape {vectors.shape} and block is {block}, expected [N, E] and 1 or more.")
    for start in range(0, len(vectors), block):
        check_vectors(f"vectors from row {start}", vectors[start : start + block])
    return search_coded(Float32(vectors.shape[1]), {"values": vectors}, queries, k, mask=mask, block=block)
