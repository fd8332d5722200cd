"""Smaller students of large teachers: losses, inherited weights, reinforced data."""

from erel_jax.distillation.affinity import affinity_loss
from erel_jax.distillation.augmentation import Augmentation, augment, copy_seeds
from erel_jax.distillation.feature import FEATURE_WEIGHT, feature_loss
from erel_jax.distillation.inheritance import HeadLayout, chosen_layers, heads_of, inherit
from erel_jax.distillation.interactive import interactive_contrastive_loss
from erel_jax.distillation.listwise import listwise_distillation_loss
from erel_jax.distillation.logit import logit_loss
from erel_jax.distillation.registry import DISTILLATION_LOSSES
from erel_jax.distillation.reinforced import reinforced_loss
from erel_jax.distillation.reinforcement import ReinforcedSet, reinforce
from erel_jax.distillation.relational import relational_angle_loss, relational_distance_loss
from erel_jax.distillation.student import flops_of, inherited_student, quarter_student, student_config

__all__ = [
    "DISTILLATION_LOSSES",
    "FEATURE_WEIGHT",
    "Augmentation",
    "HeadLayout",
    "ReinforcedSet",
    "affinity_loss",
    "augment",
    "chosen_layers",
    "copy_seeds",
    "feature_loss",
    "flops_of",
    "heads_of",
    "inherit",
    "inherited_student",
    "interactive_contrastive_loss",
    "listwise_distillation_loss",
    "logit_loss",
    "quarter_student",
    "reinforce",
    "reinforced_loss",
    "relational_angle_loss",
    "relational_distance_loss",
    "student_config",
]
