"""Other search engines behind the functions of an index: faiss, LanceDB and Qdrant."""

from erel_jax.retrieval.engines.engine import Engine, Payload, Where
from erel_jax.retrieval.engines.faiss_engine import FaissEngine, build_faiss, load_faiss
from erel_jax.retrieval.engines.lancedb_engine import LancedbEngine, open_lancedb
from erel_jax.retrieval.engines.qdrant_engine import QdrantEngine, open_qdrant

__all__ = [
    "Engine",
    "FaissEngine",
    "LancedbEngine",
    "Payload",
    "QdrantEngine",
    "Where",
    "build_faiss",
    "load_faiss",
    "open_lancedb",
    "open_qdrant",
]
