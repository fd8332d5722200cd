"""DoRA: low-rank updates of the direction of a kernel, with a trained magnitude per output (arXiv 2402.09353).

`dora` rewrites the spec like `lora`: each chosen kernel W becomes `Decomposed(W, A, B, shift, scale)`, which computes
`x V · (m / ‖V‖)` with `V = W + scale · A B`. `merge` folds it into a plain kernel for serving.
"""

import math
from collections.abc import Sequence
from typing import Any

from erel_jax.adapters.checks import check_counts, check_finite
from erel_jax.adapters.wrapping import array_spec, beside, low_rank_factors, wrap_kernels
from erel_jax.layers.kernels import Decomposed
from erel_jax.module import zeros

PyTree = Any


def dora(
    spec: PyTree, patterns: Sequence[str], *, rank: int = 8, alpha: float = 8.0, rank_stabilized: bool = False
) -> PyTree:
    """Wraps kernels of a spec in `Decomposed`.

    A freshly wrapped model computes what it did before: B is zero and the magnitude starts as the kernel's own norms.

    Args:
        spec: a module's spec; kernels are as in `lora`, also `Quantized` ones. Bring parameters in with `module.fill`.
        patterns: regular expressions over whole paths of kernels, for example `trainable.LORA_TARGETS`.
        rank: R.
        alpha: the scale is `alpha / rank`, or `alpha / √rank` when `rank_stabilized`.
        rank_stabilized: see `lora`.

    Returns:
        The rewritten spec, with `R·(D + F) + F` new parameters per kernel; `trainable.DORA` selects them.

    Raises:
        ConfigError: a pattern matches no kernel, a match is not a kernel spec, or the rank does not fit.
    """
    check_counts(rank=rank)
    check_finite(alpha=alpha)
    scale = alpha / math.sqrt(rank) if rank_stabilized else alpha / rank

    def wrap(path: str, kernel: Any) -> Decomposed:
        weight = array_spec(path, kernel)
        a, b = low_rank_factors(path, weight, rank)
        return Decomposed(kernel, a, b, beside(weight, weight.shape[-1:], weight.axes[-1:], zeros), scale)

    return wrap_kernels(spec, patterns, wrap)
