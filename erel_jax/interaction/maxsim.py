"""MaxSim: late interaction of a query's tokens with a document's (ColBERT).

    score(q, d) = Σ over query tokens i of max over document tokens j of ⟨q_i, d_j⟩

The similarities of all queries with all documents, token by token, form an array of four axes that no memory holds.
Documents are therefore taken block by block, and the backward pass computes a block's similarities again.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError


def maxsim(
    queries: jax.Array | np.ndarray,
    query_mask: jax.Array | np.ndarray,
    documents: jax.Array | np.ndarray,
    document_mask: jax.Array | np.ndarray,
    *,
    block: int = 64,
) -> jax.Array:
    """Scores of every query with every document.

    Args:
        queries: float[Q, I, E], token vectors; normalize them for cosines.
        query_mask: bool[Q, I], False for padding, which adds nothing.
        documents: float[N, J, E].
        document_mask: bool[N, J], False for padding, which never wins.
        block: documents at a time, static; Q · I · block · J similarities exist at once, also in the backward pass.

    Returns:
        float32[Q, N]; a document or query without tokens scores 0.

    Raises:
        ConfigError: shapes that do not fit.

    Pure, jittable, differentiable; where tokens tie, the gradient is shared between them. Products accumulate in
    float32.

    Reference: ColBERT (Khattab and Zaharia 2020). Relation: `fixed_dimensional_queries` and `…_documents` turn it into
    one inner product, to find candidates for it.
    """
    queries, query_mask = jnp.asarray(queries), jnp.asarray(query_mask)
    _check(queries, query_mask, "queries")
    _check(documents, document_mask, "documents")
    if queries.shape[2] != documents.shape[2] or block < 1:
        raise ConfigError(
            f"queries have width {queries.shape[2]}, documents {documents.shape[2]}, block is {block}; expected equal "
            "widths and a block of 1 or more."
        )
    count = documents.shape[0]
    size = min(block, count)
    padding = -count % size
    blocks = jnp.pad(documents, ((0, padding), (0, 0), (0, 0))).reshape(-1, size, *documents.shape[1:])
    masks = jnp.pad(document_mask, ((0, padding), (0, 0))).reshape(-1, size, documents.shape[1])

    @partial(jax.checkpoint, prevent_cse=False)
    def of_block(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        rows, there = part
        pairs = jnp.einsum("qie,nje->qinj", queries, rows, preferred_element_type=jnp.float32)
        best = jnp.max(jnp.where(there[None, None], pairs, -jnp.inf), axis=3)
        counted = query_mask[:, :, None] & jnp.any(there, axis=1)[None, None]
        return jnp.sum(jnp.where(counted, best, 0.0), axis=1)

    scores = jax.lax.map(of_block, (blocks, masks))
    return jnp.moveaxis(scores, 0, 1).reshape(queries.shape[0], -1)[:, :count]


def _check(vectors: jax.Array | np.ndarray, mask: jax.Array | np.ndarray, name: str) -> None:
    if vectors.ndim != 3 or mask.shape != vectors.shape[:2] or not vectors.shape[0]:
        raise ConfigError(f"{name} have shape {vectors.shape} and mask {mask.shape}, expected [N, T, E] and [N, T].")
