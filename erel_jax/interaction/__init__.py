"""How a query and a document of several vectors each meet."""

from erel_jax.interaction.fixed_dimensional import (
    Divisions,
    divisions,
    fixed_dimensional_documents,
    fixed_dimensional_queries,
)
from erel_jax.interaction.maxsim import maxsim

__all__ = ["Divisions", "divisions", "fixed_dimensional_documents", "fixed_dimensional_queries", "maxsim"]
