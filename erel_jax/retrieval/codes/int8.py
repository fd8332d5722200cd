"""Eight bits per dimension: with one scale per vector, or with a range per dimension fitted to a sample."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_vectors

SCALE_BYTES = 4
LEAST_SAMPLE = 100


@struct.dataclass
class Int8PerVector:
    """Symmetric codes in [-127, 127] with one step per vector, its largest magnitude over 127; nothing is fitted.

    Attributes:
        width: E of the vectors.
    """

    width: int = struct.field(pytree_node=False)

    @property
    def bytes_per_vector(self) -> int:
        """One byte per dimension, and the step."""
        return self.width + SCALE_BYTES

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """See `Code.encode`: `codes` int8[N, E] and `step` float32[N]."""
        vectors = np.asarray(vectors)
        check_vectors("vectors", vectors, self.width)
        rows = np.asarray(vectors, np.float32)
        step = np.abs(rows).max(axis=1) / 127
        codes = np.rint(rows / np.where(step > 0, step, 1)[:, None]).astype(np.int8)
        return {"codes": codes, "step": step}

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """See `Code.decode`."""
        return stored["codes"].astype(jnp.float32) * stored["step"][:, None]

    def project(self, queries: jax.Array) -> jax.Array:
        """See `Code.project`: queries as they are."""
        return queries


@struct.dataclass
class Int8PerDimension:
    """255 steps from the least to the greatest value of each dimension. Made by `int8_per_dimension`.

    Attributes:
        least: float32[E].
        step: float32[E].
    """

    least: jax.Array
    step: jax.Array

    @property
    def width(self) -> int:
        """E of the vectors."""
        return self.least.shape[0]

    @property
    def bytes_per_vector(self) -> int:
        """One byte per dimension."""
        return self.width

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """See `Code.encode`: `codes` uint8[N, E]; values beyond the fitted range are cut to it."""
        vectors = np.asarray(vectors)
        check_vectors("vectors", vectors, self.width)
        least, step = np.asarray(self.least), np.asarray(self.step)
        places = (np.asarray(vectors, np.float32) - least) / np.where(step > 0, step, 1)
        return {"codes": np.clip(np.rint(places), 0, 255).astype(np.uint8)}

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """See `Code.decode`."""
        return stored["codes"].astype(jnp.float32) * self.step[None] + self.least[None]

    def project(self, queries: jax.Array) -> jax.Array:
        """See `Code.project`: queries as they are."""
        return queries


def int8_per_dimension(sample: np.ndarray) -> Int8PerDimension:
    """Fits the ranges of `Int8PerDimension`; a dimension that never varies keeps its one value.

    Args:
        sample: float[N, E], at least 100 rows of what will be stored.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, or there are too few rows.
    """
    sample = np.asarray(sample)
    check_vectors("sample", sample)
    if len(sample) < LEAST_SAMPLE:
        raise ConfigError(f"the sample has {len(sample)} rows, expected at least {LEAST_SAMPLE} to fit ranges to.")
    least, most = (np.asarray(bound(axis=0), np.float32) for bound in (sample.min, sample.max))
    return Int8PerDimension(least=jnp.asarray(least), step=jnp.asarray((most - least) / 255))
