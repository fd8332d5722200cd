"""In-batch debiased cross-entropy for sequence recommendation.

Every position of every user must pick its next item among all items of the batch. Frequent items appear in a batch
more often, so they would be punished as negatives more often; subtracting the log of an item's popularity from its
logit takes that bias out. An item that the user has in the own window is no negative, and padding never is one.

The definition counts *slots*: a batch of B windows with L + 1 slots each has B(L + 1) candidates, and an item that
occurs three times in other users' windows is three candidates. `debiased_cross_entropy` needs each distinct item once:
k copies of a candidate contribute k·exp(z) = exp(z + log k) to the softmax's denominator, so the log of the
multiplicity stands for the copies. Value and gradient equal the definition; encoder work and the logit matrix shrink
two- to threefold in each direction. `slot_debiased_cross_entropy` is the plain closed form over slots.
"""

from functools import partial

import jax
import jax.numpy as jnp

# The published loss writes this logit for what is excluded; in float32 its weight is exactly zero either way.
_EXCLUDED = -1e4


def debiased_cross_entropy(
    user_states: jax.Array,
    item_embeddings: jax.Array,
    *,
    row_user: jax.Array,
    row_positive: jax.Array,
    windows: jax.Array,
    log_popularity: jax.Array,
    multiplicity: jax.Array,
    compute_dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """Mean loss over the real rows of a batch, with every distinct item embedded once.

    Column 0 of the unique items is padding. `data.sequence_batches` builds all index arrays.

    Args:
        user_states: float[R, E], user states of the positions that have a next item; rows beyond the real ones are
            padding with arbitrary finite values.
        item_embeddings: float[C, E], embeddings of the batch's distinct items.
        row_user: int32[R], window (0..B-1) each row belongs to.
        row_positive: int32[R], column of each row's next item; 0 marks a padding row, which costs nothing and counts
            for nothing.
        windows: int32[B, L + 1], column of the item in each slot, 0 for padding.
        log_popularity: float32[C], log of each column's share of the training interactions.
        multiplicity: float32[C], in how many slots of the batch each column occurs; 0 for unused columns. Its minimum
            with 1 counts every item once, which is another loss than the published one.
        compute_dtype: dtype of the operands of the three matrix products (logits and both gradients); accumulation
            and everything else is float32.

    Returns:
        float32 scalar; 0 if there is no real row.

    Negatives: all items of the batch that are not in the row's own window, other users' copies counted. Nothing is
    gathered across devices by hand: under `jit` with sharded inputs the batch is global, as in the definition.

    Numerics: a row without any negative has loss 0. No temperature and no normalization.

    Reference: GAIR-Lab/IISAN `ModelMM.forward`, MoRec `inbatch_sasrec_e2e`; the correction is Yi et al., RecSys 2019.
    Relation: `symmetric_info_nce` is the pairwise loss of retrieval; it has no popularity correction.
    """
    rows = row_losses(
        user_states,
        item_embeddings,
        row_user=row_user,
        row_positive=row_positive,
        windows=windows,
        log_popularity=log_popularity,
        multiplicity=multiplicity,
        compute_dtype=compute_dtype,
    )
    real = (row_positive != 0).astype(jnp.float32)
    return jnp.sum(rows * real) / jnp.maximum(jnp.sum(real), 1.0)


def row_losses(
    user_states: jax.Array,
    item_embeddings: jax.Array,
    *,
    row_user: jax.Array,
    row_positive: jax.Array,
    windows: jax.Array,
    log_popularity: jax.Array,
    multiplicity: jax.Array,
    compute_dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """Loss of each row, float32[R], before the mean; arguments as in `debiased_cross_entropy`.

    Padding rows (`row_positive == 0`) hold finite values without meaning.
    """
    users, columns = windows.shape[0], item_embeddings.shape[0]
    products: jax.Array = _products(user_states, item_embeddings, jnp.dtype(compute_dtype).name)
    own = jnp.zeros((users, columns), bool).at[jnp.arange(users)[:, None], windows].set(True)
    candidate = jnp.logical_not(own) & (multiplicity > 0)[None, :]
    copies = jnp.log(jnp.maximum(multiplicity, 1.0))
    is_positive = jnp.arange(columns, dtype=row_positive.dtype)[None, :] == row_positive[:, None]
    debiased = products - log_popularity.astype(jnp.float32)[None, :]
    logits = jnp.where(candidate[row_user], debiased + copies[None, :], _EXCLUDED)
    logits = jnp.where(is_positive, debiased, logits)
    positive = jnp.sum(jnp.where(is_positive, debiased, 0.0), axis=1)
    return jax.nn.logsumexp(logits, axis=1) - positive


def slot_debiased_cross_entropy(
    user_states: jax.Array, slot_embeddings: jax.Array, windows: jax.Array, log_popularity: jax.Array
) -> jax.Array:
    """The same loss over slots, with one embedding per slot: the published form, and the readable one.

    Args:
        user_states: float[B, L, E], states of all input positions.
        slot_embeddings: float[B, L + 1, E], embedding of the item in each slot.
        windows: int32[B, L + 1], item numbers, left padded with 0.
        log_popularity: float32[N + 1], by item number, entry 0 is 0.

    Returns:
        float32 scalar, the mean over positions whose input slot holds an item; 0 if there is none.

    Costs B·L by B·(L + 1) logits; use `debiased_cross_entropy` to train.
    """
    batch, slots = windows.shape
    ids = windows.reshape(-1)
    logits = jnp.einsum(
        "ble,ce->blc",
        user_states.astype(jnp.float32),
        slot_embeddings.reshape(batch * slots, -1).astype(jnp.float32),
    )
    logits = logits - log_popularity.astype(jnp.float32)[ids][None, None, :]
    own = jnp.any(windows[:, :, None] == ids[None, None, :], axis=1)
    excluded = own | (ids == 0)[None, :]
    positive_slot = jnp.arange(batch)[:, None] * slots + jnp.arange(1, slots)[None, :]
    is_positive = jnp.arange(batch * slots)[None, None, :] == positive_slot[:, :, None]
    logits = jnp.where(jnp.logical_and(excluded[:, None, :], jnp.logical_not(is_positive)), _EXCLUDED, logits)
    positive = jnp.sum(jnp.where(is_positive, logits, 0.0), axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - positive
    real = (windows[:, :-1] != 0).astype(jnp.float32)
    return jnp.sum(losses * real) / jnp.maximum(jnp.sum(real), 1.0)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _products(user_states: jax.Array, item_embeddings: jax.Array, compute: str) -> jax.Array:
    """`user_states @ item_embeddings.T` in float32 from operands of dtype `compute`, in both directions."""
    return _dot(user_states.astype(compute), item_embeddings.astype(compute), 1, 1)


def _products_forward(user_states, item_embeddings, compute):
    # Without its own backward pass a float32 cotangent would meet bfloat16 operands, which no backend has a kernel for.
    return _products(user_states, item_embeddings, compute), (user_states, item_embeddings)


def _products_backward(compute, residuals, cotangent):
    user_states, item_embeddings = residuals
    cotangent = cotangent.astype(compute)
    to_states = _dot(cotangent, item_embeddings.astype(compute), 1, 0)
    to_items = _dot(cotangent, user_states.astype(compute), 0, 0)
    return to_states.astype(user_states.dtype), to_items.astype(item_embeddings.dtype)


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32)


_products.defvjp(_products_forward, _products_backward)
