"""Smaller models for serving."""

from erel_jax.compression.int8 import ENCODER_KERNELS, cosine_drift, dequantize, quantize_int8, quantize_spec

__all__ = ["ENCODER_KERNELS", "cosine_drift", "dequantize", "quantize_int8", "quantize_spec"]
