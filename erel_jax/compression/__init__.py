"""Smaller and faster models for serving."""

from erel_jax.compression.int8 import ENCODER_KERNELS, cosine_drift, dequantize, quantize_int8, quantize_spec
from erel_jax.compression.serving import in_chunks, serving_params

__all__ = [
    "ENCODER_KERNELS",
    "cosine_drift",
    "dequantize",
    "in_chunks",
    "quantize_int8",
    "quantize_spec",
    "serving_params",
]
