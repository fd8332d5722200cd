"""Which rows to train on: filters, deduplication, denoising, choice of batches; they know embeddings, not encoders."""

from erel_jax.selection.captions import CaptionRules, filter_captions
from erel_jax.selection.cross_fitting import Fold, cross_fitted_losses, folds_of
from erel_jax.selection.fingerprint import (
    caption_fingerprint,
    embedding_fingerprint,
    image_fingerprint,
    score_fingerprint,
)
from erel_jax.selection.groups import group_equal_texts, group_near_duplicates, join_groups
from erel_jax.selection.hard_negatives import HardNegatives, mine_hard_negatives
from erel_jax.selection.images import ImageRules, filter_images
from erel_jax.selection.kmeans import fit_centroids, nearest_centroids
from erel_jax.selection.learnability import ScoringModel, learnability, most_learnable, select_jointly
from erel_jax.selection.manifest import load_selection, replay_selection, save_selection
from erel_jax.selection.mixtures import Mixture, fit_mixture, low_posterior, unit_interval
from erel_jax.selection.outcome import Outcome, decide, in_sequence
from erel_jax.selection.proxy import ProxyChoice, choose_by_proxy, ridge_recall
from erel_jax.selection.scores import filter_by_score, pair_cosines
from erel_jax.selection.semdedup import (
    DedupSettings,
    DuplicateCosines,
    duplicate_cosines,
    remove_duplicates,
    semdedup,
)
from erel_jax.selection.small_loss import clean_probability, co_divide, filter_by_loss, pair_losses
from erel_jax.selection.soft_correspondence import (
    rectified_labels,
    soft_correspondence_loss,
    soft_margin,
    soft_targets,
)

__all__ = [
    "CaptionRules",
    "DedupSettings",
    "DuplicateCosines",
    "Fold",
    "HardNegatives",
    "ImageRules",
    "Mixture",
    "Outcome",
    "ProxyChoice",
    "ScoringModel",
    "caption_fingerprint",
    "choose_by_proxy",
    "clean_probability",
    "co_divide",
    "cross_fitted_losses",
    "decide",
    "duplicate_cosines",
    "embedding_fingerprint",
    "filter_by_loss",
    "filter_by_score",
    "filter_captions",
    "filter_images",
    "fit_centroids",
    "fit_mixture",
    "folds_of",
    "group_equal_texts",
    "group_near_duplicates",
    "image_fingerprint",
    "in_sequence",
    "join_groups",
    "learnability",
    "load_selection",
    "low_posterior",
    "mine_hard_negatives",
    "most_learnable",
    "nearest_centroids",
    "pair_cosines",
    "pair_losses",
    "rectified_labels",
    "remove_duplicates",
    "replay_selection",
    "ridge_recall",
    "save_selection",
    "score_fingerprint",
    "select_jointly",
    "semdedup",
    "soft_correspondence_loss",
    "soft_margin",
    "soft_targets",
    "unit_interval",
]
