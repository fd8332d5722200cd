"""What arrives at each kernel of an encoder while it encodes a few hundred calibration rows.

`observe` runs the encoder with every chosen kernel wrapped, so that whatever the architecture does between kernels is
the real thing. Static int8 ranges, GPTQ's second moments and Wanda's input norms all come from here.
"""

import contextvars
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax import tree
from erel_jax.compression.chosen import ENCODER_KERNELS
from erel_jax.errors import ConfigError, NonFiniteError
from erel_jax.layers import dense, unstack
from erel_jax.layers.kernel import kernel_class
from erel_jax.layers.precision import Precision

PyTree = Any
Statistic = tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array, jax.Array], jax.Array]]

_seen: contextvars.ContextVar[dict[str, jax.Array]] = contextvars.ContextVar("seen_by_kernels")


def _products(x: jax.Array) -> jax.Array:
    return jnp.matmul(x.T, x, precision="highest")


LARGEST: Statistic = (lambda x: jnp.max(jnp.abs(x)), jnp.maximum)
"""The largest magnitude of any input: float32[]."""
SQUARES: Statistic = (lambda x: jnp.sum(x * x, axis=0), jnp.add)
"""The sum of squares of each input: float32[D]."""
MOMENTS: Statistic = (_products, jnp.add)
"""The second moments of the inputs, `Xᵀ X`: float32[D, D]."""


@kernel_class(("base",), ("path",))
@dataclasses.dataclass(frozen=True)
class Observed:
    """A kernel that leaves what arrives at it, float32[N, D], under its path."""

    base: Any
    path: str

    def dense(self, x: jax.Array, bias: jax.Array | None, precision: Precision) -> jax.Array:
        """Contracts as its base does."""
        _seen.get()[self.path] = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        return dense(x, self.base, bias, precision)


def observe(
    encode: Callable[[PyTree, PyTree], Any],
    params: PyTree,
    batches: Iterable[PyTree],
    statistic: Statistic,
    patterns: Sequence[str] = ENCODER_KERNELS,
) -> dict[str, jax.Array]:
    """A statistic of the inputs of chosen kernels over calibration batches.

    Padding is counted like any token: give batches of texts with little of it.

    Args:
        encode: `encode(params, batch)`, for example an encoder's `module.apply`; its result is not used.
        params: parameters, with the stack under "layers" as a stack.
        batches: inputs, a few hundred rows in all.
        statistic: `LARGEST`, `SQUARES` or `MOMENTS`.
        patterns: regular expressions over whole paths of kernels (a kernel that is a tree counts as one path).

    Returns:
        The statistic float32[...] of each kernel by its path; of a kernel in the stack float32[layers, ...].

    Raises:
        ConfigError: a pattern matches nothing, there is no batch, or a chosen kernel is never used in a product.
        NonFiniteError: NaN or infinity arrived at a kernel.
    """
    chosen = tree.select(tree.paths(params, is_leaf=_is_kernel), patterns)
    layers = jax.tree.leaves(params["layers"])[0].shape[0] if "layers" in params else 0
    wrapped = {**params, "layers": unstack(params["layers"], layers)} if layers else params

    def wrap(path: str, kernel: Any) -> Any:
        return Observed(kernel, path) if _stacked_path(path) in chosen else kernel

    wrapped = tree.map_with_path(wrap, wrapped, is_leaf=_is_kernel)
    measure, merge = statistic

    @jax.jit
    def seen(wrapped: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        token = _seen.set({})
        try:
            encode(wrapped, batch)
            return {path: measure(x) for path, x in _seen.get().items()}
        finally:
            _seen.reset(token)

    total: dict[str, jax.Array] | None = None
    for batch in batches:
        found = seen(wrapped, batch)
        total = found if total is None else jax.tree.map(merge, total, found)
    if total is None:
        raise ConfigError("got no calibration batch; give a few hundred rows.")
    for path, value in total.items():
        if not bool(jnp.all(jnp.isfinite(value))):
            raise NonFiniteError(f"{path}: NaN or infinity arrived at the kernel; look at the calibration rows.")
    return _by_stack(total, chosen, layers)


def _is_kernel(node: Any) -> bool:
    return callable(getattr(node, "dense", None))


def _stacked_path(path: str) -> str:
    """`layers/3/mlp/up/kernel` → `layers/mlp/up/kernel`."""
    first, _, rest = path.partition("/")
    number, _, inner = rest.partition("/")
    return f"{first}/{inner}" if first == "layers" and number.isdigit() else path


def _by_stack(total: dict[str, jax.Array], chosen: set[str], layers: int) -> dict[str, jax.Array]:
    unused = sorted(chosen - {_stacked_path(path) for path in total})
    if unused:
        raise ConfigError(f"nothing arrived at {unused[:5]}: these are no kernels, or this input does not use them.")

    def of(path: str) -> jax.Array:
        if path in total:
            return total[path]
        _, _, inner = path.partition("/")
        return jnp.stack([total[f"layers/{layer}/{inner}"] for layer in range(layers)])

    return {path: of(path) for path in sorted(chosen)}
