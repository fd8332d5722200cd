"""Training losses as pure functions of arrays; they know jax alone, so importing them is cheap."""

from erel_jax.losses.in_batch_debiased import debiased_cross_entropy, row_losses, slot_debiased_cross_entropy
from erel_jax.losses.info_nce import INITIAL_LOG_SCALE, LOG_SCALE_LIMIT, symmetric_info_nce

__all__ = [
    "INITIAL_LOG_SCALE",
    "LOG_SCALE_LIMIT",
    "debiased_cross_entropy",
    "row_losses",
    "slot_debiased_cross_entropy",
    "symmetric_info_nce",
]
