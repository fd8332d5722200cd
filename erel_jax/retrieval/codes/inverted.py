"""Inverted lists: every row is filed under its nearest centroid, and a query looks into the lists of a few centroids.

Any code may be inside. It stores rows as they are, or what the centroid leaves over of them, which is shorter and so
coded more finely; the centroid's own share of a score is exact then.

    list = argmin_l ‖x − c_l‖,   ⟨y, x⟩ = ⟨y, c_list⟩ + ⟨y, x − c_list⟩

Reference: IVF (Jégou et al., PAMI 2011).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from erel_jax import kmeans
from erel_jax.errors import ConfigError
from erel_jax.retrieval.checks import check_count, check_vectors
from erel_jax.retrieval.codes.code import Code, scores_of
from erel_jax.retrieval.codes.int8 import Int8PerVector
from erel_jax.retrieval.codes.reduced import rotated
from erel_jax.retrieval.codes.tables import check_fit

LIST_BYTES = 4


@struct.dataclass
class Inverted:
    """The code; see the module docstring. Made by `inverted`.

    Attributes:
        centroids: float32[L, E] of the lists.
        inner: code of width E of what is filed.
        probes: lists that a query looks into; more find more and take longer.
        residual: whether what is filed is what the centroid leaves over.
        margin: lists whose centroid scores lower than the nearest one's by more than this are not looked into, so that
            queries with one clear list cost less than those between several; None looks into all `probes`.
    """

    centroids: jax.Array
    inner: Code
    probes: int = struct.field(pytree_node=False)
    residual: bool = struct.field(pytree_node=False)
    margin: float | None = struct.field(pytree_node=False, default=None)

    @property
    def width(self) -> int:
        """E of the vectors."""
        return self.centroids.shape[1]

    @property
    def bytes_per_vector(self) -> int:
        """Those of the inner code, and the number of the list."""
        return self.inner.bytes_per_vector + LIST_BYTES

    def encode(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """See `Code.encode`: what the inner code stores, and `list` int32[N]."""
        vectors = np.asarray(vectors)
        check_vectors("vectors", vectors, self.width)
        rows = np.asarray(vectors, np.float32)
        centroids = np.asarray(self.centroids)
        lists = kmeans.nearest(rows, centroids)
        return dict(self.inner.encode(rows - centroids[lists] if self.residual else rows)) | {"list": lists}

    def decode(self, stored: Mapping[str, Any]) -> jax.Array:
        """See `Code.decode`: with `residual` the centroid stands beside what the inner code decodes."""
        rest = self.inner.decode(stored)
        return jnp.concatenate([rest, self.centroids[stored["list"]]], axis=1) if self.residual else rest

    def project(self, queries: jax.Array) -> jax.Array:
        """See `Code.project`: with `residual` the query stands beside what the inner code makes of it."""
        asked = self.inner.project(queries)
        return jnp.concatenate([asked, queries], axis=1) if self.residual else asked

    def score(self, asked: jax.Array, stored: Mapping[str, Any]) -> jax.Array:
        """See `Scoring.score`: of all rows, whatever their list."""
        if not self.residual:
            return scores_of(self.inner, asked, stored)
        inside = asked.shape[1] - self.width
        shares = jnp.matmul(asked[:, inside:], self.centroids.T, precision=jax.lax.Precision.HIGHEST)
        return scores_of(self.inner, asked[:, :inside], stored) + jnp.take(shares, stored["list"], axis=1)


def inverted(
    sample: np.ndarray,
    lists: int,
    inner: Callable[[np.ndarray], Code] | None = None,
    *,
    probes: int = 8,
    residual: bool = True,
    iterations: int = 10,
    seed: int = 0,
) -> Inverted:
    """Fits the centroids of the lists, and the code inside, to a sample.

    Args:
        sample: float[N, E], rows of what will be stored, at least one per list; 40 per list are usual.
        lists: L; about the square root of the number of rows, or a few times as many.
        inner: makes the code of what is filed from a float32[N, E] sample of it, as `lambda rest: product(rest, 16)`;
            None takes int8 with one step per row, after a random rotation.
        probes: lists that a query looks into.
        residual: file what the centroid leaves over.
        iterations: Lloyd steps.
        seed: of the first centroids.

    Raises:
        ConfigError, NonFiniteError: as `check_vectors`, fewer rows than lists, probes beyond them, or an inner code of
            another width.
    """
    sample = np.asarray(sample)
    check_count(lists, "lists")
    check_count(probes, "probes")
    if probes > lists:
        raise ConfigError(f"got {lists} lists and {probes} probes, expected 1 to {lists} probes.")
    check_fit(sample, lists, iterations)
    rows = np.asarray(sample, np.float32)
    centroids = kmeans.fitted(rows, kmeans.first_rows(rows, lists, seed), iterations=iterations, seed=seed)
    rest = rows - centroids[kmeans.nearest(rows, centroids)] if residual else rows
    code = rotated(rows.shape[1], Int8PerVector, seed=seed) if inner is None else inner(rest)
    if code.width != rows.shape[1]:
        raise ConfigError(f"the inner code has width {code.width}, but the sample has {rows.shape[1]}.")
    return Inverted(centroids=jnp.asarray(centroids), inner=code, probes=probes, residual=residual)


def margin_for(code: Inverted, queries: np.ndarray, lists: np.ndarray, *, recall: float = 0.99) -> float:
    """The narrowest `Inverted.margin` with which enough of the right rows lie in lists that are looked into.

    Args:
        code: with `probes` above what most queries need; the margin leaves out what few do.
        queries: float[Q, E], like those that will be asked, and others than those that recall is measured with.
        lists: int[Q, K], the lists of each query's right rows: `stored["list"][search_exact(...).rows]`.
        recall: share of the right rows to be found; what the code inside loses comes on top.

    Raises:
        ConfigError: shapes differ, a list is none of the code's, `recall` is not in (0, 1], or `probes` lists do not
            hold so many.
    """
    queries, lists = np.asarray(queries, np.float32), np.asarray(lists)
    check_vectors("queries", queries, code.width)
    if lists.ndim != 2 or len(lists) != len(queries) or not lists.size or not 0 < recall <= 1:
        raise ConfigError(
            f"got lists {list(lists.shape)} for {len(queries)} queries and recall {recall}; expected [Q, K], and "
            "a recall above 0 up to 1."
        )
    if lists.min() < 0 or lists.max() >= len(code.centroids):
        raise ConfigError(f"got lists {lists.min()} to {lists.max()}, expected 0 to {len(code.centroids) - 1}.")
    scores = queries @ np.asarray(code.centroids).T
    nearest = -np.sort(-scores, axis=1)[:, : code.probes]
    found = np.take_along_axis(scores, lists, axis=1)
    gaps = np.sort(np.where(found >= nearest[:, -1:], nearest[:, :1] - found, np.inf), axis=None)
    margin = float(gaps[int(np.ceil(recall * gaps.size)) - 1])
    if not np.isfinite(margin):
        held = float(np.isfinite(gaps).mean())
        raise ConfigError(
            f"{code.probes} probes hold {held:.3f} of the right rows, expected at least {recall}; take more probes."
        )
    # Products rounded in another order must not shut out the last one counted.
    return margin + 1e-6
