"""Serial bottleneck adapters (Houlsby et al., arXiv 1902.00751).

Each chosen dense layer with output h is followed by `h + W_up φ(W_down h + b_down) + b_up`. In a transformer the
adapters stand after the attention's output projection and after the second MLP product, before the residual sum and
the norm.
"""

from collections.abc import Sequence
from typing import Any

from erel_jax.adapters.checks import check_counts
from erel_jax.adapters.trainable import HOULSBY_TARGETS
from erel_jax.adapters.wrapping import array_spec, beside, wrap_kernels
from erel_jax.layers.activation import activation as activation_named
from erel_jax.layers.kernels import Bottleneck
from erel_jax.module import normal, zeros

PyTree = Any


def houlsby(
    spec: PyTree,
    patterns: Sequence[str] = HOULSBY_TARGETS,
    *,
    bottleneck: int = 64,
    activation: str = "relu",
    zero_up: bool = True,
) -> PyTree:
    """Wraps kernels of a spec in `Bottleneck`.

    Args:
        spec: a module's spec; see `lora` for what a kernel may be. Bring parameters in with `module.fill`.
        patterns: regular expressions over whole paths of kernels.
        bottleneck: inner width R.
        activation: name of φ.
        zero_up: True starts W_up at zero, so that the model is unchanged; False draws both weights from N(0, 0.01²)
            as the released baselines do (nearly unchanged). Biases start at zero.

    Returns:
        The rewritten spec, with `2·F·R + R + F` new parameters per kernel of output width F.

    Raises:
        ConfigError: a pattern matches no kernel, a match is not a kernel spec, R is below 1, or φ is unknown.
    """
    check_counts(bottleneck=bottleneck)
    activation_named(activation)

    def wrap(path: str, kernel: Any) -> Bottleneck:
        weight = array_spec(path, kernel)
        out, axis = weight.shape[-1], weight.axes[-1]
        return Bottleneck(
            kernel,
            beside(weight, (out, bottleneck), (axis, "rank"), normal(0.01)),
            beside(weight, (bottleneck,), ("rank",), zeros),
            beside(weight, (bottleneck, out), ("rank", axis), zeros if zero_up else normal(0.01)),
            beside(weight, (out,), (axis,), zeros),
            activation,
        )

    return wrap_kernels(spec, patterns, wrap)
