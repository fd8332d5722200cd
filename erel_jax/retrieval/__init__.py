"""Search: which rows of a corpus answer a query."""

from erel_jax.retrieval.coded import rescored, search_coded
from erel_jax.retrieval.exact import search_exact
from erel_jax.retrieval.hits import Hits
from erel_jax.retrieval.screened import ScreenedCorpus, screened_corpus, search_screened

__all__ = ["Hits", "ScreenedCorpus", "rescored", "screened_corpus", "search_coded", "search_exact", "search_screened"]
