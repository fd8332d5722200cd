"""Matrices as sums of Kronecker products (parameterized hypercomplex multiplication), as Compacter uses them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import add_bias, matmul
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision


@kernel_class(("rules", "left", "right"))
@dataclasses.dataclass(frozen=True)
class Kronecker:
    """`W = Σ_i A_i ⊗ (s_i t_iᵀ)`, a matrix [n·p, n·q] of `n³ + n·(p + q)` parameters; W is never formed.

    Attributes:
        rules: A [n, n, n], the first axis counts the terms.
        left: s [n, p].
        right: t [n, q].
    """

    rules: Any
    left: Any
    right: Any

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., n·p]` to `[..., n·q]`; see `erel_jax.layers.dense.dense`."""
        terms, p = self.left.shape
        narrow = matmul(x.reshape(*x.shape[:-1], terms, p), self.left.T, precision)
        # n³ numbers per row, one small product per term: not worth a cast, and batched half-precision products do not
        # run on every backend.
        mixed = jnp.einsum("...ai,iab->...bi", narrow, self.rules.astype(narrow.dtype))
        y = matmul(mixed, self.right, precision)
        y = y.reshape(*y.shape[:-2], terms * self.right.shape[-1])
        return y if bias is None else add_bias(y, bias)
