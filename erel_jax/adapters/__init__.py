"""Efficient adaptation: low-rank updates, bottlenecks, bias tuning, and side networks over hidden states."""

from erel_jax.adapters.houlsby import houlsby
from erel_jax.adapters.iisan import IISAN_LEARNING_RATES, collapse_heads, iisan
from erel_jax.adapters.lora import lora, merge_lora, unmerge_lora
from erel_jax.adapters.method import METHODS, Method, named_method
from erel_jax.adapters.side_tower import TowerConfig, side_tower
from erel_jax.adapters.taps import tap_states
from erel_jax.adapters.trainable import split

__all__ = [
    "IISAN_LEARNING_RATES",
    "METHODS",
    "Method",
    "TowerConfig",
    "collapse_heads",
    "houlsby",
    "iisan",
    "lora",
    "merge_lora",
    "named_method",
    "side_tower",
    "split",
    "tap_states",
    "unmerge_lora",
]
