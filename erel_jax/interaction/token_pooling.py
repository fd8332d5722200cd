"""Fewer token vectors per document: similar ones are clustered and each cluster leaves its mean.

A document of T tokens keeps T / factor of them. Clusters come from Ward's hierarchical method, which merges, again and
again, the two clusters whose merging adds the least squared distance to their means.

Reference: Ward (1963); pooling for late interaction: Clavié et al. 2024, arXiv 2409.14683. Distances of merged clusters
by the recurrence of Lance and Williams (1967).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError


def pool_tokens(
    tokens: jax.Array | np.ndarray,
    mask: jax.Array | np.ndarray,
    factor: int,
    *,
    normalize: bool = True,
    block: int = 16,
) -> tuple[jax.Array, jax.Array]:
    """Documents with a fraction of their tokens.

    Args:
        tokens: float[N, T, E]; usually of length 1.
        mask: bool[N, T], False for padding, which joins no cluster and may hold anything.
        factor: tokens per kept one on average; a document of t tokens keeps max(1, ⌊t / factor⌋), an empty one none.
        normalize: bring the means back to length 1, as MaxSim of cosines expects; a mean of zeros stays zeros.
        block: documents at a time, static; memory is block · T² floats, time T³ per document.

    Returns:
        float32[N, max(1, ⌊T / factor⌋), E] and its mask; kept ones stand in the order of their first tokens.

    Raises:
        ConfigError: shapes that do not fit, or a factor or block below 1.

    Pure and jittable; equal distances merge the pair that comes first. Float32 throughout.
    """
    if tokens.ndim != 3 or mask.shape != tokens.shape[:2] or factor < 1 or block < 1:
        raise ConfigError(
            f"tokens have shape {tokens.shape} and mask {mask.shape}, factor is {factor}, block is {block}; expected "
            "[N, T, E], [N, T], and 1 or more."
        )
    pool = partial(_pooled, factor=factor, normalize=normalize)
    return jax.lax.map(pool, (jnp.asarray(tokens), jnp.asarray(mask)), batch_size=min(block, max(1, tokens.shape[0])))


def _pooled(document: tuple[jax.Array, jax.Array], factor: int, normalize: bool) -> tuple[jax.Array, jax.Array]:
    tokens, mask = document
    length = tokens.shape[0]
    vectors = jnp.where(mask[:, None], tokens.astype(jnp.float32), 0.0)
    present = jnp.sum(mask.astype(jnp.int32))
    merges = present - jnp.maximum(1, present // factor)
    squares = jnp.sum(jnp.square(vectors), axis=1)
    products = jnp.matmul(vectors, vectors.T, precision=jax.lax.Precision.HIGHEST)
    near = squares[:, None] + squares[None, :] - 2 * products
    near = jnp.where(mask[:, None] & mask[None, :] & ~jnp.eye(length, dtype=bool), near, jnp.inf)
    start = near, mask.astype(jnp.float32), jnp.arange(length, dtype=jnp.int32)
    # Steps beyond a document's own merges change nothing: documents of one block go on together.
    most = length - max(1, length // factor)
    _, sizes, owners = jax.lax.fori_loop(0, most, partial(_merge, merges), start)
    member = jax.nn.one_hot(owners, length, dtype=jnp.float32, axis=0) * mask.astype(jnp.float32)[None]
    sums = jnp.matmul(member, vectors, precision=jax.lax.Precision.HIGHEST)
    means = sums / jnp.maximum(sizes, 1.0)[:, None]
    if normalize:
        lengths = jnp.linalg.norm(means, axis=1, keepdims=True)
        means = means / jnp.where(lengths > 0, lengths, 1.0)
    kept = jnp.argsort(sizes == 0, stable=True)[: max(1, length // factor)]
    return jnp.where((sizes[kept] > 0)[:, None], means[kept], 0.0), sizes[kept] > 0


def _merge(merges: jax.Array, step: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]):
    near, sizes, owners = state
    place = jnp.argmin(near)
    # The first least element of a symmetric matrix lies above its diagonal: the earlier cluster takes the later one.
    one, other = place // near.shape[1], place % near.shape[1]
    there = jnp.isfinite(near[one]) & jnp.isfinite(near[other])
    row, column = (jnp.where(there, near[at], 0.0) for at in (one, other))
    joined = (sizes[one] + sizes) * row + (sizes[other] + sizes) * column - sizes * near[one, other]
    joined = jnp.where(there, joined / jnp.maximum(sizes[one] + sizes[other] + sizes, 1.0), jnp.inf)
    after = near.at[one].set(joined).at[:, one].set(joined).at[other].set(jnp.inf).at[:, other].set(jnp.inf)
    larger = sizes.at[one].add(sizes[other]).at[other].set(0.0)
    taken = jnp.where(owners == other.astype(jnp.int32), one.astype(jnp.int32), owners)
    more = step < merges
    return jnp.where(more, after, near), jnp.where(more, larger, sizes), jnp.where(more, taken, owners)
