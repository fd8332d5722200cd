"""Efficient adaptation: low-rank updates, bottlenecks, bias tuning, and side networks over hidden states."""

from erel_jax.adapters.compacter import compacter
from erel_jax.adapters.crossan import crossan
from erel_jax.adapters.dora import dora
from erel_jax.adapters.houlsby import houlsby
from erel_jax.adapters.ia3 import ia3
from erel_jax.adapters.iisan import IISAN_LEARNING_RATES, collapse_heads, iisan
from erel_jax.adapters.k_adapter import k_adapter
from erel_jax.adapters.lora import lora, merge_lora, unmerge_lora
from erel_jax.adapters.merging import merge, unmerge_ia3
from erel_jax.adapters.method import METHODS, Method, named_method
from erel_jax.adapters.parallel import parallel
from erel_jax.adapters.partial import cut_layers, join_layers, partial_layers
from erel_jax.adapters.pfeiffer import pfeiffer
from erel_jax.adapters.prefix_tuning import fold_prefix, prefix_tuning
from erel_jax.adapters.prompt_tuning import prompt_tuning
from erel_jax.adapters.qlora import qlora, quantized_base
from erel_jax.adapters.several import choose, stack_adapters
from erel_jax.adapters.side_tower import TowerConfig, side_tower
from erel_jax.adapters.taps import tap_states
from erel_jax.adapters.trainable import split
from erel_jax.adapters.vera import vera
from erel_jax.adapters.versa import versa

__all__ = [
    "IISAN_LEARNING_RATES",
    "METHODS",
    "Method",
    "TowerConfig",
    "choose",
    "collapse_heads",
    "compacter",
    "crossan",
    "cut_layers",
    "dora",
    "fold_prefix",
    "houlsby",
    "ia3",
    "iisan",
    "join_layers",
    "k_adapter",
    "lora",
    "merge",
    "merge_lora",
    "named_method",
    "parallel",
    "partial_layers",
    "pfeiffer",
    "prefix_tuning",
    "prompt_tuning",
    "qlora",
    "quantized_base",
    "side_tower",
    "split",
    "stack_adapters",
    "tap_states",
    "unmerge_ia3",
    "unmerge_lora",
    "vera",
    "versa",
]
