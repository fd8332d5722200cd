"""Int8 kernels: weights stored in one byte per value with one float32 scale per output.

`quantize_int8` rewrites parameters, `quantize_spec` rewrites a spec the same way, so a quantized model can be counted
and placed from abstract shapes. The result is a tree of `Quantized` kernels that every layer takes as it is; adapters
wrap them like plain kernels (LoRA over int8 is QLoRA). `cosine_drift` says what it cost.

With `dynamic` products, activations are quantized per row as they come and int8 meets int8 in int32 arithmetic;
without it, only the storage shrinks and products run in the compute dtype.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.compression.chosen import ENCODER_KERNELS, map_kernel_specs, map_kernels, output_scale, plain_kernels
from erel_jax.errors import ConfigError
from erel_jax.layers.kernels import Quantized
from erel_jax.module import ParamSpec, zeros

PyTree = Any


def quantize_int8(params: PyTree, patterns: Sequence[str] = ENCODER_KERNELS, *, dynamic: bool = True) -> PyTree:
    """Symmetric round-to-nearest int8 kernels.

    Per output f: `scale_f = max_d |W_df| / 127` and `values_df = round(W_df / scale_f)`, so that every weight is off by
    at most `scale_f / 2`. An output whose weights are all zero has scale 0.

    Args:
        params: parameters with plain kernels float[D, F] or stacks float[layers, D, F] at the chosen paths.
        patterns: regular expressions over whole paths of kernels (also of the base inside an adapter,
            `…/kernel/base`).
        dynamic: quantize activations too, see `layers.Quantized`.

    Returns:
        The same tree with `Quantized` kernels: `values` int8 of the kernel's shape, `scale` float32 [F] or
        [layers, F]. Values are looked at, so this runs outside jit.

    Raises:
        ConfigError: a pattern matches nothing, or a match is not a float matrix.
        NonFiniteError: a chosen kernel holds NaN or infinity.
    """
    return map_kernels(params, patterns, lambda _, kernel: _quantized(kernel, dynamic))


def _quantized(weight: jax.Array, dynamic: bool) -> Quantized:
    wide = weight.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=-2, keepdims=True)
    inverse = jnp.where(largest > 0, 127.0 / jnp.where(largest > 0, largest, 1.0), 0.0)
    values = jnp.clip(jnp.round(wide * inverse), -127, 127).astype(jnp.int8)
    return Quantized(values, jnp.squeeze(largest, -2) / 127.0, dynamic)


def quantize_spec(spec: PyTree, patterns: Sequence[str] = ENCODER_KERNELS, *, dynamic: bool = True) -> PyTree:
    """The spec of `quantize_int8`'s result: counting, placing and lowering without weights.

    Its initializers (values 0, scale 1) are placeholders; quantize trained parameters instead of drawing from it.

    Raises:
        ConfigError: a pattern matches nothing, or a match is not a float matrix.
    """

    def quantize(_: str, kernel: ParamSpec) -> Quantized:
        values = ParamSpec(kernel.shape, kernel.axes, zeros, jnp.int8)
        return Quantized(values, output_scale(kernel), dynamic)

    return map_kernel_specs(spec, patterns, quantize)


def dequantize(params: PyTree, dtype: Any = jnp.float32) -> PyTree:
    """Plain kernels `values · scale` in place of `Quantized` ones."""
    return plain_kernels(
        params, Quantized, lambda leaf: leaf.values.astype(jnp.float32) * leaf.scale[..., None, :], dtype
    )


def cosine_drift(reference: jax.Array, compressed: jax.Array) -> dict[str, float]:
    """How far compressed embeddings turned away from the reference, row by row.

    Args:
        reference: float[N, E], for example embeddings of the float32 model.
        compressed: float[N, E], embeddings of the same inputs by the compressed model.

    Returns:
        `{"mean", "min", "p01"}` of the cosine per row in float32 (1 is no drift; `p01` is the first percentile).
        Two zero rows agree (1); a zero row beside another one does not (0).

    Raises:
        ConfigError: shapes differ or there is no row.
    """
    if reference.shape != compressed.shape or reference.ndim != 2 or not reference.shape[0]:
        raise ConfigError(f"got shapes {reference.shape} and {compressed.shape}, expected two equal [N, E] with N > 0.")
    a, b = reference.astype(jnp.float32), compressed.astype(jnp.float32)
    norms = jnp.linalg.norm(a, axis=1), jnp.linalg.norm(b, axis=1)
    product = norms[0] * norms[1]
    cosine = jnp.sum(a * b, axis=1) / jnp.where(product > 0, product, 1.0)
    cosine = jnp.where(product > 0, cosine, jnp.where(norms[0] == norms[1], 1.0, 0.0))
    return {"mean": float(jnp.mean(cosine)), "min": float(jnp.min(cosine)), "p01": float(jnp.quantile(cosine, 0.01))}
