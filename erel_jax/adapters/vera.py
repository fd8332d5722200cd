"""VeRA: shared frozen random factors, and two trained vectors per kernel (Kopiczko et al., arXiv 2310.11454).

Every kernel gets the leading part of the same random A and B, drawn from a seed, and trains only how much of each of
their R directions (d) and of each output (s) it takes. The factors are frozen parameters and have no gradient and no
optimizer state. They are stored once per kernel and layer: a kernel contracts itself with what its own node holds, and
a scan hands every layer its own slice, so one pair for all would need a second way from parameters to kernels. Folders
for `peft` hold one pair (`interop.peft_vera`).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax import tree
from erel_jax.adapters.checks import check_counts, check_finite, check_patterns
from erel_jax.adapters.wrapping import array_spec, beside, is_kernel, wrap_kernels
from erel_jax.layers.kernels import ScaledRandom
from erel_jax.module import Initializer, zeros

PyTree = Any


def vera(spec: PyTree, patterns: Sequence[str], *, rank: int = 256, inner_start: float = 0.1, seed: int = 0) -> PyTree:
    """Wraps kernels of a spec in `ScaledRandom`.

    s is zero, so a freshly wrapped model computes what it did before. A [D, R] and B [R, F] are cut from one pair as
    large as the largest chosen kernel, drawn from U(±√(6/D)) and U(±√(6/R)) (Kaiming-uniform).

    Args:
        spec: a module's spec; kernels are as in `lora`. Bring parameters in with `module.fill`.
        patterns: regular expressions over whole paths of kernels, for example `trainable.LORA_TARGETS`.
        rank: R; it costs compute but only R trained numbers per kernel, and may exceed the kernel's sides.
        inner_start: initial value of d.
        seed: of the random factors; `module.fill`'s key does not enter.

    Returns:
        The rewritten spec; `trainable.VERA` selects its `R + F` trained parameters per kernel.

    Raises:
        ConfigError: a pattern matches no kernel, a match is not a kernel spec, or the rank is below 1.
    """
    check_counts(rank=rank)
    check_finite(inner_start=inner_start)
    check_patterns(patterns)
    nodes = tree.paths(spec, is_leaf=is_kernel)
    shapes = [array_spec(path, nodes[path]).shape[-2:] for path in sorted(tree.select(nodes, patterns))]
    widest, outs = max((w for w, _ in shapes), default=1), max((out for _, out in shapes), default=1)
    draw_a = _leading_part(seed, (widest, rank), math.sqrt(6 / widest))
    draw_b = _leading_part(seed + 1, (rank, outs), math.sqrt(6 / rank))

    def wrap(path: str, kernel: Any) -> ScaledRandom:
        weight = array_spec(path, kernel)
        (width, out), (width_axis, out_axis) = weight.shape[-2:], weight.axes[-2:]
        return ScaledRandom(
            kernel,
            beside(weight, (width, rank), (width_axis, "rank"), draw_a),
            beside(weight, (rank, out), ("rank", out_axis), draw_b),
            beside(weight, (rank,), ("rank",), jax.nn.initializers.constant(inner_start)),
            beside(weight, (out,), (out_axis,), zeros),
        )

    return wrap_kernels(spec, patterns, wrap)


def _leading_part(seed: int, whole: tuple[int, int], bound: float) -> Initializer:
    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        del key  # the same factors for every kernel
        drawn = jax.random.uniform(jax.random.key(seed), whole, dtype, -bound, bound)
        return jnp.broadcast_to(drawn[: shape[-2], : shape[-1]], shape)

    return initialize
