"""What losses with soft targets share: cross-entropy against a teacher's distribution, and logits of a split batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from erel_jax.losses.across_devices import gather
from erel_jax.losses.similarity import products


def soft_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy of each row against a distribution.

    Args:
        logits: float32[B, N] of the student.
        target: float32[B, N], rows that sum to one. Receives no gradient.

    Returns:
        float32[B]; the least it can be is the target's entropy.
    """
    return -jnp.sum(jax.lax.stop_gradient(target) * jax.nn.log_softmax(logits, axis=1), axis=1)


def both_ways(left: jax.Array, right: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Dot products of this device's rows of each side with all rows of the other.

    Args:
        left, right: float32[B, E].
        axis_name: mesh axis over which rows are split, or None.

    Returns:
        (float32[B, C], float32[B, C]): left against all of right, right against all of left, C rows on all devices.
    """
    if axis_name is None:
        logits = products(left, right)
        return logits, logits.T
    return products(left, gather(right, axis_name)), products(right, gather(left, axis_name))


def mean_distribution(logits: Sequence[jax.Array]) -> jax.Array:
    """The mean of the softmaxes of several teachers' logits float32[B, N]; rows sum to one."""
    return jnp.mean(jnp.stack([jax.nn.softmax(one, axis=1) for one in logits]), axis=0)
