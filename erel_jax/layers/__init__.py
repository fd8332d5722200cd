"""Layers as functions over nested dicts of kernels."""

from erel_jax.layers.activation import activation
from erel_jax.layers.attention import attend, attention_spec, self_attention
from erel_jax.layers.dense import dense, matmul
from erel_jax.layers.dropout import dropout
from erel_jax.layers.embedding import (
    embed_patches,
    embed_tokens,
    extract_patches,
    extract_tubelets,
    extract_windows,
    resize_positions,
    sine_positions,
)
from erel_jax.layers.kernels import Bottleneck, LowRank, Quantized, quantize_rows
from erel_jax.layers.map_head import map_head, map_head_spec
from erel_jax.layers.mlp import mlp, mlp_spec
from erel_jax.layers.norm import l2_normalize, layer_norm, layer_norm_spec
from erel_jax.layers.pooling import first_token, last_positions, masked_mean, token_at
from erel_jax.layers.precision import BFLOAT16, FLOAT32, Precision
from erel_jax.layers.transformer import BlockConfig, block, block_spec, run_stack, stack_spec, unrolled, unstack

__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "BlockConfig",
    "Bottleneck",
    "LowRank",
    "Precision",
    "Quantized",
    "activation",
    "attend",
    "attention_spec",
    "block",
    "block_spec",
    "dense",
    "dropout",
    "embed_patches",
    "embed_tokens",
    "extract_patches",
    "extract_tubelets",
    "extract_windows",
    "first_token",
    "l2_normalize",
    "last_positions",
    "layer_norm",
    "layer_norm_spec",
    "map_head",
    "map_head_spec",
    "masked_mean",
    "matmul",
    "mlp",
    "mlp_spec",
    "quantize_rows",
    "resize_positions",
    "run_stack",
    "self_attention",
    "sine_positions",
    "stack_spec",
    "token_at",
    "unrolled",
    "unstack",
]
