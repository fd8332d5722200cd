"""Training-free methods a learned one must beat; each scores all items for a block of users' histories."""

from erel_jax.benchmark.floors.combined import Combined, Floor, combine_scores
from erel_jax.benchmark.floors.markov import Markov
from erel_jax.benchmark.floors.neighbors import EmbeddingNeighbors
from erel_jax.benchmark.floors.popularity import Popularity
from erel_jax.benchmark.floors.ranking import rank_floors
from erel_jax.benchmark.floors.recency import recency_weights
from erel_jax.benchmark.floors.tfidf import TfidfNeighbors

__all__ = [
    "Combined",
    "EmbeddingNeighbors",
    "Floor",
    "Markov",
    "Popularity",
    "TfidfNeighbors",
    "combine_scores",
    "rank_floors",
    "recency_weights",
]
