"""Smaller and faster models for serving."""

from erel_jax.compression.int8 import ENCODER_KERNELS, cosine_drift, dequantize, quantize_int8, quantize_spec
from erel_jax.compression.nf4 import dequantize_nf4, nf4_spec, quantize_nf4
from erel_jax.compression.serving import in_chunks, serving_params

__all__ = [
    "ENCODER_KERNELS",
    "cosine_drift",
    "dequantize",
    "dequantize_nf4",
    "in_chunks",
    "nf4_spec",
    "quantize_int8",
    "quantize_nf4",
    "quantize_spec",
    "serving_params",
]
