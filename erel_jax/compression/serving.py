"""Parameters and programs arranged for encoding, where nothing trains and speed is all.

`serving_params` rearranges parameters once, `in_chunks` keeps a large batch's activations in the processor's cache.
Neither changes what is computed beyond rounding kernels to the dtype in which they are multiplied anyway.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.layers import Quantized, unstack
from erel_jax.layers.kernels import Float8, Grouped, Nf4

PyTree = Any


def serving_params(params: PyTree, layers: int, dtype: Any = jnp.bfloat16) -> PyTree:
    """An encoder's parameters for encoding: kernels of its stack rounded once to `dtype` and taken apart by layer.

    Norms and biases keep their dtype. A stack with int8 or 4-bit kernels stays as it is: XLA widens such weights
    fastest while it takes them out of the stack.

    Args:
        params: parameters with a branch `layers` of `layers.stack_spec`.
        layers: number of layers in it.
        dtype: the `compute` dtype of the encoder's precision.

    Returns:
        Parameters for the same encoder's `apply`; not for training or storing.

    Raises:
        ConfigError: `params` has no branch `layers`.
    """
    if "layers" not in params:
        raise ConfigError(f"got parameters with branches {sorted(params)}, expected one called 'layers'.")
    stack = params["layers"]

    def quantized(node: Any) -> bool:
        return isinstance(node, Quantized | Nf4 | Grouped | Float8)

    if any(map(quantized, jax.tree.leaves(stack, is_leaf=quantized))):
        return params

    def rounded(leaf: jax.Array) -> jax.Array:
        matrix = leaf.ndim > 1 and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if matrix else leaf

    return {**params, "layers": jax.tree.map(rounded, unstack(stack, layers))}


def in_chunks(encode: Callable[[PyTree, PyTree], PyTree], rows: int) -> Callable[[PyTree, PyTree], PyTree]:
    """The same encoding, `rows` rows after `rows` rows inside one program.

    On a CPU a batch whose activations leave the cache is slower than its parts: about 800 tokens at width 768 are best
    (4 images of 197). Elsewhere pass the whole batch.

    Args:
        encode: `encode(params, inputs)` with a leading batch axis in and out.
        rows: rows at a time; must divide the batch.

    Raises:
        ConfigError: when traced, if `rows` does not divide the batch.
    """

    def chunked(params: PyTree, inputs: PyTree) -> PyTree:
        batch = jax.tree.leaves(inputs)[0].shape[0]
        if rows < 1 or batch % rows:
            raise ConfigError(f"got {batch} rows in chunks of {rows}; the chunk must divide the batch.")
        if rows == batch:
            return encode(params, inputs)
        parts = jax.tree.map(lambda x: x.reshape(batch // rows, rows, *x.shape[1:]), inputs)
        outputs = jax.lax.map(lambda part: encode(params, part), parts)
        return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), outputs)

    return chunked
