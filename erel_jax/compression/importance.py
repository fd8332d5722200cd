"""How much each head, feed-forward neuron and layer of an encoder does, measured on calibration rows.

Heads by what the loss says about a gate on them (Michel et al., 2019), neurons by weight and input (Wanda, arXiv
2306.11695, summed per neuron), layers by how little they turn the residual stream (block influence, arXiv 2403.03853).
`pruning` takes these numbers; higher is more important.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import tree
from erel_jax.compression.observe import SQUARES, observe
from erel_jax.encoders import Encoder
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import dense
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision

PyTree = Any

OUTPUT, DOWN = "layers/attention/output/kernel", "layers/mlp/down/kernel"


@kernel_class(("base", "gate"))
@dataclasses.dataclass(frozen=True)
class GatedHeads:
    """The kernel `base` behind attention, with what each head gives to it times `gate` float32[H]."""

    base: Any
    gate: Any

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts `[..., H·K]` as its base does."""
        heads = x.reshape(*x.shape[:-1], self.gate.shape[0], -1)
        gate = self.gate.astype(x.dtype).reshape(*(1,) * (x.ndim - 1), -1, 1)
        return dense((heads * gate).reshape(x.shape), self.base, bias, precision)


def head_importance(
    loss: Callable[[PyTree, PyTree], jax.Array], params: PyTree, batches: Iterable[PyTree], heads: int
) -> np.ndarray:
    """`|gate · ∂L/∂gate|` of a gate of 1 on each head, summed over batches.

    Args:
        loss: `loss(params, batch)` gives a scalar; the encoder's own training loss says most. Small batches are closer
            to the method's mean over single examples.
        params: the encoder's parameters, with the stack under "layers".
        batches: calibration batches.
        heads: heads H of a layer.

    Returns:
        float64[layers, H].

    Raises:
        ConfigError: there is no batch, or the parameters have no such kernel.
        NonFiniteError: a gradient is not finite.
    """
    kernels = tree.paths(params, is_leaf=lambda node: callable(getattr(node, "dense", None)))
    if OUTPUT not in kernels:
        raise ConfigError(f"got no kernel {OUTPUT}; heads are found in a stack of plain blocks.")
    layers = jax.tree.leaves(kernels[OUTPUT])[0].shape[0]

    @jax.jit
    def gradient(params: PyTree, batch: PyTree) -> jax.Array:
        def of_gates(gate: jax.Array) -> jax.Array:
            stack = params["layers"]
            output = {**stack["attention"]["output"], "kernel": GatedHeads(kernels[OUTPUT], gate)}
            gated = {**stack, "attention": {**stack["attention"], "output": output}}
            return loss({**params, "layers": gated}, batch)

        return jax.grad(of_gates)(jnp.ones((layers, heads)))

    total = _summed(np.abs(np.asarray(gradient(params, batch), np.float64)) for batch in batches)
    return _finite("head", total)


def neuron_importance(encode: Callable[[PyTree, PyTree], Any], params: PyTree, batches: Iterable[PyTree]) -> np.ndarray:
    """`‖x_f‖ · Σ_d |W_fd|` of each feed-forward neuron f, W the kernel behind it and x_f what it gives over all tokens.

    Args:
        encode: as in `observe`.
        params: the encoder's parameters, with a float kernel or one that folds behind the neurons.
        batches: calibration batches.

    Returns:
        float64[layers, F].

    Raises:
        ConfigError, NonFiniteError: as `observe`.
    """
    squares = observe(encode, params, batches, SQUARES, [DOWN])[DOWN]
    kernel = params["layers"]["mlp"]["down"]["kernel"]
    weight = kernel if hasattr(kernel, "ndim") else kernel.fold(None)[0]
    behind = np.abs(np.asarray(weight, np.float64)).sum(-1)
    return _finite("neuron", np.sqrt(np.asarray(squares, np.float64)) * behind)


def layer_importance(encoder: Encoder, params: PyTree, batches: Iterable[PyTree]) -> np.ndarray:
    """`1 - cos(h_l, h_l+1)` of each layer, the mean over real tokens of all rows.

    Args:
        encoder: the encoder; one that merges tokens has no comparable states.
        params: its parameters.
        batches: its inputs.

    Returns:
        float64[layers].

    Raises:
        ConfigError: there is no batch.
        NonFiniteError: a state is not finite.
    """

    @jax.jit
    def influence(params: PyTree, batch: PyTree) -> tuple[jax.Array, jax.Array]:
        out = encoder.module.apply(params, batch, hidden_states=True, tokens=True, embedding=False)
        states, mask = out.hidden_states, out.mask
        norms = jnp.linalg.norm(states, axis=-1)
        cosine = jnp.sum(states[1:] * states[:-1], axis=-1) / jnp.maximum(norms[1:] * norms[:-1], 1e-12)
        real = jnp.ones(states.shape[1:3]) if mask is None else mask.astype(jnp.float32)
        return jnp.sum((1.0 - cosine) * real[None], axis=(1, 2)), jnp.sum(real)

    found = [jax.device_get(influence(params, batch)) for batch in batches]
    total = _summed(np.asarray(sums, np.float64) for sums, _ in found)
    return _finite("layer", total / sum(float(count) for _, count in found))


def _summed(parts: Iterable[np.ndarray]) -> np.ndarray:
    total = None
    for part in parts:
        total = part if total is None else total + part
    if total is None:
        raise ConfigError("got no calibration batch; give a few hundred rows.")
    return total


def _finite(what: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise NonFiniteError(f"the importance of a {what} is not finite; look at the calibration rows and the loss.")
    return values
