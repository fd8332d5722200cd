"""Kernels with more outputs or inputs than the matrix they started from: the two halves of a wider MLP."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import add_bias, dense, matmul
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision


@kernel_class(("base", "extra", "extra_bias"))
@dataclasses.dataclass(frozen=True)
class MoreOutputs:
    """`[x W + bias, x W' + b']`: R more outputs behind those of W.

    Attributes:
        base: the kernel W [D, F] (any kernel).
        extra: W' [D, R].
        extra_bias: b' [R].
    """

    base: Any
    extra: Any
    extra_bias: Any

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F + R]`; see `erel_jax.layers.dense.dense`."""
        outputs = dense(x, self.base, bias, precision), dense(x, self.extra, self.extra_bias, precision)
        return jnp.concatenate(outputs, axis=-1)


@kernel_class(("base", "extra", "extra_bias"), ("scale",))
@dataclasses.dataclass(frozen=True)
class MoreInputs:
    """`x_1 W + bias + scale · (x_2 W' + b')` for inputs `[x_1, x_2]` of widths F and R.

    Attributes:
        base: the kernel W [F, D] (any kernel).
        extra: W' [R, D], zero at initialization, so that the layer starts unchanged.
        extra_bias: b' [D], zero at initialization.
        scale: factor of the added part.
    """

    base: Any
    extra: Any
    extra_bias: Any
    scale: float = 1.0

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., F + R]` to `[..., D]`; see `erel_jax.layers.dense.dense`."""
        split = x.shape[-1] - self.extra.shape[-2]
        added = add_bias(matmul(x[..., split:], self.extra, precision), self.extra_bias)
        return dense(x[..., :split], self.base, bias, precision) + self.scale * added
