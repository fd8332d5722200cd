"""How a query and a document of several vectors each meet."""

from erel_jax.interaction.fixed_dimensional import (
    Divisions,
    divisions,
    fixed_dimensional_documents,
    fixed_dimensional_queries,
)
from erel_jax.interaction.maxsim import maxsim
from erel_jax.interaction.token_pooling import pool_tokens

__all__ = [
    "Divisions",
    "divisions",
    "fixed_dimensional_documents",
    "fixed_dimensional_queries",
    "maxsim",
    "pool_tokens",
]
