"""Search: which rows of a corpus answer a query."""

from erel_jax.retrieval.coded import rescored, search_coded
from erel_jax.retrieval.exact import search_exact
from erel_jax.retrieval.folder import load_index, save_index, writing
from erel_jax.retrieval.hits import Hits
from erel_jax.retrieval.index import (
    Found,
    Index,
    Measured,
    add,
    build_index,
    compacted,
    delete,
    probing,
    search_index,
)
from erel_jax.retrieval.inverted import Lists, lists_of, search_inverted
from erel_jax.retrieval.multi_vector import TokenCorpus, search_tokens, token_corpus
from erel_jax.retrieval.screened import ScreenedCorpus, screened_corpus, search_screened
from erel_jax.retrieval.sharded import ShardedRows, search_sharded, shard_rows
from erel_jax.retrieval.streamed import write_index

__all__ = [
    "Found",
    "Hits",
    "Index",
    "Lists",
    "Measured",
    "ScreenedCorpus",
    "ShardedRows",
    "TokenCorpus",
    "add",
    "build_index",
    "compacted",
    "delete",
    "lists_of",
    "load_index",
    "probing",
    "rescored",
    "save_index",
    "screened_corpus",
    "search_coded",
    "search_exact",
    "search_index",
    "search_inverted",
    "search_screened",
    "search_sharded",
    "search_tokens",
    "shard_rows",
    "token_corpus",
    "write_index",
    "writing",
]
