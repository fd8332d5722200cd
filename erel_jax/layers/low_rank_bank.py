"""Several low-rank updates of one kernel, chosen per example."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.layers.dense import dense
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision


@kernel_class(("base", "a", "b", "index"), ("scale",))
@dataclasses.dataclass(frozen=True)
class LowRankBank:
    """`x_n W + scale · (x_n A_t) B_t` with `t = index[n]` for each example n of a batch.

    Attributes:
        base: the kernel W [D, F] (any kernel), shared by all.
        a: [T, D, R], one factor per adapter.
        b: [T, R, F].
        index: int32[B], which adapter an example takes; -1 takes none. None until `adapters.choose` puts it in.
        scale: as in `LowRank`.

    An index of T or more, or below -1, gives NaN, so it cannot pass for another adapter's answer.
    """

    base: Any
    a: Any
    b: Any
    index: Any = None
    scale: float = 1.0

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[B, ..., D]` to `[B, ..., F]`; see `erel_jax.layers.dense.dense`.

        Raises:
            ConfigError: no index was put in, or it is for another number of examples.
        """
        if self.index is None:
            raise ConfigError("a bank of adapters got no index. Call adapters.choose(params, index) inside the step.")
        if x.ndim < 2 or self.index.shape != x.shape[:1]:
            raise ConfigError(f"got an index of shape {self.index.shape} for a batch {x.shape}, expected one per row.")
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        chosen = jnp.where(self.index < -1, self.a.shape[-3], jnp.maximum(self.index, 0))
        for factor in (self.a, self.b):
            picked = jnp.take(factor, chosen, axis=0, mode="fill", fill_value=jnp.nan).astype(precision.compute)
            rows = jnp.matmul(rows.astype(precision.compute), picked, preferred_element_type=precision.accumulate)
        update = jnp.where((self.index != -1)[:, None, None], self.scale * rows, 0.0)
        return dense(x, self.base, bias, precision) + update.reshape(*x.shape[:-1], update.shape[-1])
