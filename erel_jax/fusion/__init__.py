"""Merging what several modalities say about one example, exact where some are absent."""

from erel_jax.fusion.feature import FeatureFusionConfig, feature_fusion
from erel_jax.fusion.score import score_fusion

__all__ = ["FeatureFusionConfig", "feature_fusion", "score_fusion"]
