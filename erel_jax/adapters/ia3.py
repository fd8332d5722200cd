"""(IA)³: trained vectors that scale keys, values and the inside of the MLP (Liu et al. 2022, arXiv 2205.05638).

The outputs of the key and value projections are multiplied by vectors (their biases too), and so is the input of the
MLP's second product. All vectors start at 1; `merge` folds them into the columns or rows of the kernels.
"""

from collections.abc import Sequence
from typing import Any

from erel_jax import tree
from erel_jax.adapters.checks import check_patterns
from erel_jax.adapters.trainable import IA3_INPUT_TARGETS, IA3_OUTPUT_TARGETS
from erel_jax.adapters.wrapping import array_spec, beside, is_kernel, wrap_kernels
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import Rescaled
from erel_jax.module import ones

PyTree = Any


def ia3(spec: PyTree, outputs: Sequence[str] = IA3_OUTPUT_TARGETS, inputs: Sequence[str] = IA3_INPUT_TARGETS) -> PyTree:
    """Wraps kernels of a spec in `Rescaled`.

    Args:
        spec: a module's spec; kernels are as in `lora`. Bring parameters in with `module.fill`.
        outputs: patterns of the kernels whose outputs are scaled: keys and values.
        inputs: patterns of the kernels whose inputs are scaled: the MLP's second one.

    Returns:
        The rewritten spec, with one new parameter per scaled output or input; `trainable.IA3` selects them.

    Raises:
        ConfigError: a pattern matches no kernel, a match is not a kernel spec, or a kernel is in both lists.
    """
    check_patterns(outputs)
    check_patterns(inputs)
    names = tree.paths(spec, is_leaf=is_kernel)
    both = sorted(tree.select(names, outputs) & tree.select(names, inputs))
    if both:
        raise ConfigError(f"(IA)³ got {both[0]!r} in both lists, expected inputs or outputs of a kernel to be scaled.")

    def scale_output(path: str, kernel: Any) -> Rescaled:
        weight = array_spec(path, kernel)
        return Rescaled(kernel, None, beside(weight, weight.shape[-1:], weight.axes[-1:], ones))

    def scale_input(path: str, kernel: Any) -> Rescaled:
        weight = array_spec(path, kernel)
        return Rescaled(kernel, beside(weight, weight.shape[-2:-1], weight.axes[-2:-1], ones), None)

    return wrap_kernels(wrap_kernels(spec, outputs, scale_output), inputs, scale_input)
