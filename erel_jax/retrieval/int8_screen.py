"""int8 rows by int8 queries: rounded scores, several times as fast as float ones; for ranking before scoring again."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.retrieval.codes.code import Code, scores_of
from erel_jax.retrieval.codes.int8 import Int8PerVector
from erel_jax.retrieval.codes.reduced import Reduced

SLACK = 14
"""Rows beyond K that rounding can put before the K best."""


def screened_rows(code: Code, k: int) -> int:
    """Rows per query that have to be scored again; 0 where `quick_scores` are not rounded."""
    return k + SLACK if isinstance(code.inner if isinstance(code, Reduced) else code, Int8PerVector) else 0


def quick_queries(code: Code, asked: jax.Array) -> tuple[jax.Array, ...]:
    """What `quick_scores` takes: projected queries float32[Q, D], or int8[Q, D] codes and their steps float32[Q]."""
    if not screened_rows(code, 1):
        return (asked,)
    step = jnp.max(jnp.abs(asked), axis=1) / 127.0
    return jnp.round(asked / jnp.where(step > 0, step, 1.0)[:, None]).astype(jnp.int8), step


def quick_products(code: Code, quick: tuple[jax.Array, ...], stored: Mapping[str, Any]) -> jax.Array:
    """[T, Q, N] products of T blocks' own queries and rows: int32 where rounded, or float32.

    On a processor rows stand on the left side of the product, which is read as it lies (the right one is packed), and
    the barrier keeps XLA from changing sides: the few queries then are turned to the front, so that what follows runs
    over rows.
    """
    if not screened_rows(code, 1):
        return jax.vmap(partial(scores_of, code))(quick[0], stored)
    rows_first = jnp.einsum("tne,tqe->tnq", stored["codes"], quick[0], preferred_element_type=jnp.int32)
    return jax.lax.optimization_barrier(jax.lax.optimization_barrier(rows_first).swapaxes(1, 2))


def quick_scores(products: jax.Array, quick: tuple[jax.Array, ...], stored: Mapping[str, Any]) -> jax.Array:
    """float32[T, Q, N] estimated inner products."""
    if len(quick) == 1:
        return products
    return products.astype(jnp.float32) * stored["step"][:, None, :] * quick[1][:, :, None]
