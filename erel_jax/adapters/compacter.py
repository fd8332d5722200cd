"""Compacter: bottleneck adapters whose matrices are sums of Kronecker products (arXiv 2106.04647).

The positions and the block are Houlsby's, `h + φ(h W_down + b) W_up + b'`, with `W = Σ_i A_i ⊗ (s_i t_iᵀ)`. The A_i are
n³ numbers per matrix here, where the original shares them across the model: a scan hands every layer its own slice of
the parameters and a kernel knows nothing but its own node, so one leaf for all would need a second way from parameters
to kernels. At n = 4 and R = 64 that is 128 of the 2,624 numbers of an adapter of width 768.
"""

import math
from collections.abc import Sequence
from typing import Any

from erel_jax.adapters.checks import check_counts, check_finite
from erel_jax.adapters.trainable import HOULSBY_TARGETS
from erel_jax.adapters.wrapping import array_spec, beside, wrap_kernels
from erel_jax.errors import ConfigError
from erel_jax.layers.activation import activation as activation_named
from erel_jax.layers.kernels import Bottleneck, Kronecker
from erel_jax.module import Initializer, ParamSpec, normal, uniform, zeros

PyTree = Any


def compacter(
    spec: PyTree,
    patterns: Sequence[str] = HOULSBY_TARGETS,
    *,
    bottleneck: int = 64,
    terms: int = 4,
    activation: str = "gelu_new",
    rule_std: float = 0.01,
) -> PyTree:
    """Wraps kernels of a spec in `Bottleneck` over `Kronecker` matrices.

    s and t are Glorot-uniform with gain √2, except t of W_up, which is zero: the model is unchanged at the start.

    Args:
        spec: a module's spec; see `lora` for what a kernel may be. Bring parameters in with `module.fill`.
        patterns: regular expressions over whole paths of kernels.
        bottleneck: inner width R, a multiple of `terms`.
        terms: n, the number of Kronecker products; it must divide the width too.
        activation: name of φ.
        rule_std: A is drawn from N(0, rule_std²). Released code has 1e-4, at which Adam's epsilon hides the gradients
            of an adapter that starts at zero.

    Returns:
        The rewritten spec, with `2·n³ + 2·(F + R) + R + F` new parameters per kernel of output width F;
        `trainable.COMPACTER` selects them.

    Raises:
        ConfigError: a pattern matches no kernel, a match is not a kernel spec, n does not divide both widths, or φ is
            unknown.
    """
    check_counts(bottleneck=bottleneck, terms=terms)
    check_finite(rule_std=rule_std)
    activation_named(activation)

    def matrix(weight: ParamSpec, sizes: tuple[int, int], axes: tuple[Any, Any], last: bool) -> Kronecker:
        left, right = sizes[0] // terms, sizes[1] // terms
        return Kronecker(
            beside(weight, (terms, terms, terms), (None, None, None), normal(rule_std)),
            beside(weight, (terms, left), (None, axes[0]), _glorot(left)),
            beside(weight, (terms, right), (None, axes[1]), zeros if last else _glorot(right)),
        )

    def wrap(path: str, kernel: Any) -> Bottleneck:
        weight = array_spec(path, kernel)
        out = weight.shape[-1]
        if out % terms or bottleneck % terms:
            raise ConfigError(f"{path}: terms={terms} must divide the output width {out} and bottleneck={bottleneck}.")
        return Bottleneck(
            kernel,
            matrix(weight, (out, bottleneck), (None, None), last=False),
            beside(weight, (bottleneck,), ("rank",), zeros),
            matrix(weight, (bottleneck, out), (None, None), last=True),
            beside(weight, (out,), weight.axes[-1:], zeros),
            activation,
        )

    return wrap_kernels(spec, patterns, wrap)


def _glorot(length: int) -> Initializer:
    """Uniform with gain √2 over a vector seen as a matrix [length, 1]."""
    return uniform(math.sqrt(2) * math.sqrt(6 / (length + 1)))
