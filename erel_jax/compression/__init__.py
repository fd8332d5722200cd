"""Smaller and faster models for serving."""

from erel_jax.compression.chosen import ENCODER_KERNELS
from erel_jax.compression.drift import GATE, Drift, drift
from erel_jax.compression.float8 import float8_spec, quantize_float8
from erel_jax.compression.grouped import dequantize_grouped, grouped_spec, quantize_grouped
from erel_jax.compression.int8 import cosine_drift, dequantize, quantize_int8, quantize_spec
from erel_jax.compression.merged_tokens import rebuilt, with_merged_tokens
from erel_jax.compression.nf4 import dequantize_nf4, nf4_spec, quantize_nf4
from erel_jax.compression.observe import LARGEST, MOMENTS, SQUARES, observe
from erel_jax.compression.serving import in_chunks, serving_params
from erel_jax.compression.static_ranges import static_ranges_spec, with_static_ranges

__all__ = [
    "ENCODER_KERNELS",
    "GATE",
    "LARGEST",
    "MOMENTS",
    "SQUARES",
    "Drift",
    "cosine_drift",
    "dequantize",
    "dequantize_grouped",
    "dequantize_nf4",
    "drift",
    "float8_spec",
    "grouped_spec",
    "in_chunks",
    "nf4_spec",
    "observe",
    "quantize_float8",
    "quantize_grouped",
    "quantize_int8",
    "quantize_nf4",
    "quantize_spec",
    "rebuilt",
    "serving_params",
    "static_ranges_spec",
    "with_merged_tokens",
    "with_static_ranges",
]
