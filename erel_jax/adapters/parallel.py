"""Parallel adapters beside the MLP (He et al. 2022, arXiv 2110.04366): `MLP(x) + s · (φ(x W_down + b) W_up + b')`.

A bottleneck beside an MLP with the same activation is the same MLP with R more hidden units, so the two kernels of the
MLP are widened and nothing else changes: the adapter reads the sub-layer's input and adds to its output before the
residual sum. φ is therefore the MLP's own activation (the paper has ReLU).
"""

from collections.abc import Sequence
from typing import Any

from erel_jax import tree
from erel_jax.adapters.checks import check_counts, check_finite, check_patterns
from erel_jax.adapters.wrapping import array_spec, beside, is_kernel, wrap_kernels
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import MoreInputs, MoreOutputs
from erel_jax.module import normal, zeros

PyTree = Any


def parallel(spec: PyTree, mlps: Sequence[str] = (r".*/mlp",), *, bottleneck: int = 64, scale: float = 4.0) -> PyTree:
    """Widens MLPs of a spec by a parallel adapter.

    W_up and both biases start at zero, so the model is unchanged; W_down is drawn from N(0, 0.02²).

    Args:
        spec: a module's spec whose MLPs hold `up/kernel` and `down/kernel`. Bring parameters in with `module.fill`.
        mlps: patterns over the paths of whole MLPs.
        bottleneck: R.
        scale: s; the paper found 4 best for frozen encoders.

    Returns:
        The rewritten spec, with `2·D·R + R + D` new parameters per MLP; `trainable.PARALLEL` selects them.

    Raises:
        ConfigError: a pattern matches no MLP, R is below 1, or an MLP is gated: its hidden units are products of two
            kernels' outputs, so more of them would be another network than a bottleneck.
    """
    check_counts(bottleneck=bottleneck)
    check_finite(scale=scale)
    check_patterns(mlps)
    _refuse_gated(spec, mlps)

    def widen_outputs(path: str, kernel: Any) -> MoreOutputs:
        weight = array_spec(path, kernel)
        extra = beside(weight, (weight.shape[-2], bottleneck), (weight.axes[-2], "rank"), normal(0.02))
        return MoreOutputs(kernel, extra, beside(weight, (bottleneck,), ("rank",), zeros))

    def widen_inputs(path: str, kernel: Any) -> MoreInputs:
        weight = array_spec(path, kernel)
        extra = beside(weight, (bottleneck, weight.shape[-1]), ("rank", weight.axes[-1]), zeros)
        return MoreInputs(kernel, extra, beside(weight, weight.shape[-1:], weight.axes[-1:], zeros), scale)

    widened = wrap_kernels(spec, [f"(?:{pattern})/up/kernel" for pattern in mlps], widen_outputs)
    return wrap_kernels(widened, [f"(?:{pattern})/down/kernel" for pattern in mlps], widen_inputs)


def _refuse_gated(spec: PyTree, mlps: Sequence[str]) -> None:
    """Refuses MLPs with a gate, in a kernel of its own or fused with what it gates."""
    ends = ("/gate/kernel", "/gate_up/kernel")
    kernels = [path for path in tree.paths(spec, is_leaf=is_kernel) if path.endswith(ends)]
    gated = {path.rpartition("/")[0].rpartition("/")[0]: path for path in kernels}
    for pattern in mlps:
        try:
            chosen = tree.select(gated, [pattern])
        except ConfigError:
            continue  # it chooses none of these; `wrap_kernels` says what is wrong with it, if anything is
        if chosen:
            path = gated[min(chosen)]
            raise ConfigError(f"{path}: parallel adapters widen plain MLPs, this one is gated. Use houlsby or lora.")
