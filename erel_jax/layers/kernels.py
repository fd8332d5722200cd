"""Kernels: what a layer's weight may be besides a plain array. This module is the one door to all of them.

A kernel is a registered pytree with a method `dense(x, bias, precision)`. Kernels nest through `base`: a `LowRank`
over a `Quantized` base is QLoRA, a `Bottleneck` over a `LowRank` is both adapters at once. The same classes hold
`ParamSpec`s in a spec, arrays in parameters and abstract arrays in between, so one rewrite serves all three.
"""

from erel_jax.layers.bottleneck import Bottleneck
from erel_jax.layers.decomposed import Decomposed
from erel_jax.layers.float8 import Float8
from erel_jax.layers.grouped import Grouped
from erel_jax.layers.int8 import Quantized, quantize_rows
from erel_jax.layers.kernel import fold
from erel_jax.layers.kronecker import Kronecker
from erel_jax.layers.low_rank import LowRank, ScaledRandom
from erel_jax.layers.low_rank_bank import LowRankBank
from erel_jax.layers.nf4 import Nf4
from erel_jax.layers.rescale import Rescaled
from erel_jax.layers.widen import MoreInputs, MoreOutputs

__all__ = [
    "Bottleneck",
    "Decomposed",
    "Float8",
    "Grouped",
    "Kronecker",
    "LowRank",
    "LowRankBank",
    "MoreInputs",
    "MoreOutputs",
    "Nf4",
    "Quantized",
    "Rescaled",
    "ScaledRandom",
    "fold",
    "quantize_rows",
]
