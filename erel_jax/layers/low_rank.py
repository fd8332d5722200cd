"""Low-rank updates of a kernel: trained factors (LoRA) and shared random factors with trained scales (VeRA)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import dense, matmul
from erel_jax.layers.kernel import along_last, fold, kernel_class, wide_product
from erel_jax.layers.precision import Precision


@kernel_class(("base", "a", "b"), ("scale",))
@dataclasses.dataclass(frozen=True)
class LowRank:
    """`x W + scale · (x A) B`; the merged matrix is never formed while training.

    Attributes:
        base: the frozen kernel W [D, F] (any kernel).
        a: [D, R].
        b: [R, F], zero at initialization, so that the layer starts unchanged.
        scale: α/r for LoRA, α/√r for rsLoRA.
    """

    base: Any
    a: Any
    b: Any
    scale: float = 1.0

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        update = matmul(matmul(x, self.a, precision), self.b, precision)
        return dense(x, self.base, bias, precision) + self.scale * update

    def fold(self, bias: Any) -> tuple[jax.Array, Any]:
        """The same map as (matrix, bias); see `erel_jax.layers.kernel.fold`."""
        weight, bias = fold(self.base, bias)
        update = self.scale * wide_product(self.a, self.b)
        return (weight.astype(jnp.float32) + update).astype(weight.dtype), bias


@kernel_class(("base", "a", "b", "inner", "outer"))
@dataclasses.dataclass(frozen=True)
class ScaledRandom:
    """`x W + (((x A) ∘ d) B) ∘ s` with frozen random A and B and trained vectors d and s (VeRA).

    Attributes:
        base: the frozen kernel W [D, F] (any kernel).
        a: [D, R], random and frozen.
        b: [R, F], random and frozen.
        inner: d [R].
        outer: s [F], zero at initialization, so that the layer starts unchanged.
    """

    base: Any
    a: Any
    b: Any
    inner: Any
    outer: Any

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        narrow = matmul(x, self.a, precision)
        update = matmul(narrow * along_last(self.inner, narrow), self.b, precision)
        return dense(x, self.base, bias, precision) + update * along_last(self.outer, update)

    def fold(self, bias: Any) -> tuple[jax.Array, Any]:
        """The same map as (matrix, bias); see `erel_jax.layers.kernel.fold`."""
        weight, bias = fold(self.base, bias)
        inner, outer = self.inner.astype(jnp.float32)[..., None, :], self.outer.astype(jnp.float32)[..., None, :]
        update = wide_product(self.a.astype(jnp.float32) * inner, self.b) * outer
        return (weight.astype(jnp.float32) + update).astype(weight.dtype), bias
