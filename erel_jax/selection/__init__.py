"""Which rows to train on: filters, deduplication, denoising, choice of batches; they know embeddings, not encoders."""

from erel_jax.selection.captions import CaptionRules, filter_captions
from erel_jax.selection.fingerprint import (
    caption_fingerprint,
    embedding_fingerprint,
    image_fingerprint,
    score_fingerprint,
)
from erel_jax.selection.images import ImageRules, filter_images
from erel_jax.selection.kmeans import fit_centroids, nearest_centroids
from erel_jax.selection.manifest import load_selection, replay_selection, save_selection
from erel_jax.selection.outcome import Outcome, decide, in_sequence
from erel_jax.selection.scores import filter_by_score, pair_cosines
from erel_jax.selection.semdedup import (
    DedupSettings,
    DuplicateCosines,
    duplicate_cosines,
    remove_duplicates,
    semdedup,
)

__all__ = [
    "CaptionRules",
    "DedupSettings",
    "DuplicateCosines",
    "ImageRules",
    "Outcome",
    "caption_fingerprint",
    "decide",
    "duplicate_cosines",
    "embedding_fingerprint",
    "filter_by_score",
    "filter_captions",
    "filter_images",
    "fit_centroids",
    "image_fingerprint",
    "in_sequence",
    "load_selection",
    "nearest_centroids",
    "pair_cosines",
    "remove_duplicates",
    "replay_selection",
    "save_selection",
    "score_fingerprint",
    "semdedup",
]
