"""User encoders: from a sequence of item embeddings to user states."""

from erel_jax.recommendation.compact_sasrec import compact_sasrec
from erel_jax.recommendation.sasrec import SasrecConfig, sasrec

__all__ = ["SasrecConfig", "compact_sasrec", "sasrec"]
