"""Bottleneck adapters as kernels: a small two-layer network behind a dense layer."""

import dataclasses
from typing import Any

import jax

from erel_jax.layers.activation import activation
from erel_jax.layers.dense import dense
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision


@kernel_class(("base", "down", "down_bias", "up", "up_bias"), ("activation",))
@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """A serial bottleneck adapter after a dense layer: with `h = x W + bias`, `h + φ(h W_down + b_down) W_up + b_up`.

    Attributes:
        base: the kernel W [D, F] (any kernel).
        down, down_bias: [F, R] (any kernel), [R].
        up, up_bias: [R, F] (any kernel), [F].
        activation: name of φ, see `erel_jax.layers.activation`.
    """

    base: Any
    down: Any
    down_bias: Any
    up: Any
    up_bias: Any
    activation: str = "relu"

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        h = dense(x, self.base, bias, precision)
        inner = activation(self.activation, precision)(dense(h, self.down, self.down_bias, precision))
        return h + dense(inner, self.up, self.up_bias, precision)
