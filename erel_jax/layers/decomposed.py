"""Weight-decomposed low-rank updates (DoRA): direction and magnitude of each output are trained apart."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.dense import add_bias, dense, matmul
from erel_jax.layers.kernel import along_last, fold, kernel_class, wide_product
from erel_jax.layers.precision import Precision


@kernel_class(("base", "a", "b", "magnitude_shift"), ("scale",))
@dataclasses.dataclass(frozen=True)
class Decomposed:
    """`x V · (m / ‖V‖) + bias` with `V = W + scale · A B` and norms over the inputs of each output.

    Attributes:
        base: the frozen kernel W [D, F] (any linear kernel).
        a: [D, R].
        b: [R, F], zero at initialization.
        magnitude_shift: [F], zero at initialization: `m = ‖W‖ + magnitude_shift`. W is frozen, so this is DoRA's m with
            the same gradient, and it starts right whatever W it is put on.
        scale: as in `LowRank`.

    Numerics: norms are float32 and under stop-gradient, as the paper's section 4.3 has it. V is never formed: its
    squared norm is `‖W‖² + 2s·Σ_r (AᵀW ∘ B) + s²·Σ_r (AᵀA B ∘ B)`. An output whose V is zero gives its bias.
    """

    base: Any
    a: Any
    b: Any
    magnitude_shift: Any
    scale: float = 1.0

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., D]` to `[..., F]`; see `erel_jax.layers.dense.dense`."""
        update = matmul(matmul(x, self.a, precision), self.b, precision)
        y = dense(x, self.base, None, precision) + self.scale * update
        # The base may scale the bias ((IA)³ does); the magnitude does not.
        weight, bias = fold(self.base, bias)
        y = y * along_last(self._gain(weight), y)
        return y if bias is None else add_bias(y, bias)

    def fold(self, bias: Any) -> tuple[jax.Array, Any]:
        """The same map as (matrix, bias); see `erel_jax.layers.kernel.fold`."""
        weight, bias = fold(self.base, bias)
        direction = weight.astype(jnp.float32) + self.scale * wide_product(self.a, self.b)
        return (direction * self._gain(weight)[..., None, :]).astype(weight.dtype), bias

    def _gain(self, weight: jax.Array) -> jax.Array:
        """`m / ‖V‖`, float32[..., F]."""
        weight, a, b = jax.lax.stop_gradient((weight.astype(jnp.float32), self.a, self.b))
        squared = jnp.sum(weight * weight, axis=-2)
        transposed = jnp.swapaxes(a, -1, -2)
        inner = wide_product(transposed, weight) * 2.0 + self.scale * wide_product(wide_product(transposed, a), b)
        direction = jnp.sqrt(jnp.maximum(squared + self.scale * jnp.sum(inner * b.astype(jnp.float32), axis=-2), 0.0))
        magnitude = jnp.sqrt(squared) + self.magnitude_shift.astype(jnp.float32)
        return magnitude / jnp.where(direction > 0, direction, 1.0)
