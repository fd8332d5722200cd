"""Optimizer, training state, compiled step, loop, checkpoints and the flag that asks to stop."""

from erel_jax.training.checkpoint import Checkpoints, Restored
from erel_jax.training.contrastive import contrastive_loss, contrastive_start
from erel_jax.training.feed import Batches
from erel_jax.training.loop import FitResult, Progress, fit
from erel_jax.training.optimizer import adam
from erel_jax.training.over_devices import over_devices
from erel_jax.training.signals import StopFlag
from erel_jax.training.state import (
    TrainState,
    abstract_state,
    new_state,
    place,
    place_batch,
    state_shardings,
    tree_shardings,
)
from erel_jax.training.step import train_step
from erel_jax.training.sub_batches import in_sub_batches

__all__ = [
    "Batches",
    "Checkpoints",
    "FitResult",
    "Progress",
    "Restored",
    "StopFlag",
    "TrainState",
    "abstract_state",
    "adam",
    "contrastive_loss",
    "contrastive_start",
    "fit",
    "in_sub_batches",
    "new_state",
    "over_devices",
    "place",
    "place_batch",
    "state_shardings",
    "train_step",
    "tree_shardings",
]
