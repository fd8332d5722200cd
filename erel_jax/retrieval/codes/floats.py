"""Vectors as they are: the code that loses nothing."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax.retrieval.checks import check_vectors


@struct.dataclass
class Float32:
    """Four bytes per dimension.

    Attributes:
        width: E of the vectors.
    """

    width: int = struct.field(pytree_node=False)

    @property
    def bytes_per_vector(self) -> int:
        """Four bytes per dimension."""
        return 4 * self.width

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """See `Code.encode`: `values` float32[N, E], without a copy where they are float32 already."""
        vectors = np.asarray(vectors)
        check_vectors("vectors", vectors, self.width)
        return {"values": np.asarray(vectors, np.float32)}

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """See `Code.decode`."""
        return jnp.asarray(stored["values"])

    def project(self, queries: jax.Array) -> jax.Array:
        """See `Code.project`: queries as they are."""
        return queries
