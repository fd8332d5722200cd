"""Training losses as pure functions of arrays; they know jax alone, so importing them is cheap."""

from erel_jax.losses.bpr import bpr_loss
from erel_jax.losses.checks import check_batch
from erel_jax.losses.chunked_info_nce import chunked_info_nce
from erel_jax.losses.chunked_sigmoid import chunked_sigmoid_loss
from erel_jax.losses.false_negatives import false_negatives
from erel_jax.losses.in_batch_debiased import debiased_cross_entropy, row_losses, slot_debiased_cross_entropy
from erel_jax.losses.info_nce import info_nce, symmetric_info_nce
from erel_jax.losses.listwise import listnet_loss
from erel_jax.losses.margin import margin_loss
from erel_jax.losses.matryoshka import matryoshka
from erel_jax.losses.multi_positive import multi_positive_info_nce, symmetric_multi_positive_info_nce
from erel_jax.losses.registry import LOSSES, Loss
from erel_jax.losses.sigmoid import multi_positive_sigmoid_loss, sigmoid_loss
from erel_jax.losses.softmax import full_softmax, sampled_softmax
from erel_jax.losses.temperature import INITIAL_LOG_SCALE, LOG_SCALE_LIMIT, clamped_scale, log_scale_of
from erel_jax.losses.triplet import semi_hard_triplet_loss, triplet_loss

__all__ = [
    "INITIAL_LOG_SCALE",
    "LOG_SCALE_LIMIT",
    "LOSSES",
    "Loss",
    "bpr_loss",
    "check_batch",
    "chunked_info_nce",
    "chunked_sigmoid_loss",
    "clamped_scale",
    "debiased_cross_entropy",
    "false_negatives",
    "full_softmax",
    "info_nce",
    "listnet_loss",
    "log_scale_of",
    "margin_loss",
    "matryoshka",
    "multi_positive_info_nce",
    "multi_positive_sigmoid_loss",
    "row_losses",
    "sampled_softmax",
    "semi_hard_triplet_loss",
    "sigmoid_loss",
    "slot_debiased_cross_entropy",
    "symmetric_info_nce",
    "symmetric_multi_positive_info_nce",
    "triplet_loss",
]
