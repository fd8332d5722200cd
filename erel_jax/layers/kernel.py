"""What all kernels share: how a class becomes one, and the plain matrix that a kernel stands for.

A kernel is a registered pytree with a method `dense(x, bias, precision)`. Kernels that are linear maps also have
`fold(bias)`, which gives the same map as a plain matrix and bias; adapters are merged with it, and DoRA measures its
norms on it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError

Class = TypeVar("Class", bound=type)


def kernel_class(data: tuple[str, ...], meta: tuple[str, ...] = ()) -> Callable[[Class], Class]:
    """Class decorator: a pytree with the fields `data` as children and `meta` as structure."""

    def decorate(cls: Class) -> Class:
        return jax.tree_util.register_dataclass(cls, data_fields=list(data), meta_fields=list(meta))

    return decorate


def fold(kernel: Any, bias: Any = None) -> tuple[Any, Any]:
    """A linear kernel and its bias as a plain matrix and bias.

    Args:
        kernel: float[..., D, F] or a linear kernel over such an array; leading axes are those of a stack of layers.
        bias: float[..., F] or None.

    Returns:
        (matrix, bias) of the same shapes; the matrix in the dtype of the innermost array (float32 for quantized ones).

    Raises:
        ConfigError: the kernel is not a linear map (a bottleneck has an activation inside).
    """
    if hasattr(kernel, "ndim"):
        return kernel, bias
    if not hasattr(kernel, "fold"):
        raise ConfigError(f"a {type(kernel).__name__} is not one matrix: it cannot be folded into a plain kernel.")
    return kernel.fold(bias)


def along_last(vector: jax.Array, like: jax.Array) -> jax.Array:
    """float[F] in the dtype of `like` float[..., F], with leading axes of size 1 to broadcast against it."""
    return jnp.reshape(vector.astype(like.dtype), (1,) * (like.ndim - 1) + vector.shape)


def wide_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b` over float[..., D, R] and float[..., R, F] in float32 at the highest precision of the device."""
    return jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
