"""k-means: centroids around which rows gather. Plain or spherical Lloyd steps in one compiled loop over tiles of rows.

    centroids = fitted(rows, first_rows(rows, 256), iterations=15)
    owners = nearest(rows, centroids)

Nothing is checked here: the rooms that use it refuse bad input in their own words.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

MOST_TILE_ROWS = 2048
TILE_SCORES = 2**24
"""Most scores that exist at once, 64 MiB of them; the rows of a tile follow from the number of centroids."""


def tile_rows_for(clusters: int) -> int:
    """Rows of a tile against that many centroids."""
    return max(64, min(MOST_TILE_ROWS, TILE_SCORES // clusters))


def tiled(rows: np.ndarray, most: int) -> np.ndarray:
    """Rows [S, E] as tiles [T, tile, E], filled with zero rows."""
    tile = min(most, len(rows))
    return np.pad(rows, ((0, -len(rows) % tile), (0, 0))).reshape(-1, tile, rows.shape[1])


def first_rows(rows: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """float32[C, E], rows drawn without repetition, for centroids to begin at."""
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), clusters, replace=False))]


def fitted(
    rows: np.ndarray,
    first: np.ndarray,
    *,
    iterations: int,
    seed: int = 0,
    spherical: bool = False,
    refill: bool = True,
) -> np.ndarray:
    """Lloyd steps.

    Args:
        rows: float32[S, E].
        first: float32[C, E], C ≤ S, where centroids begin.
        iterations: steps.
        seed: which rows take the place of centroids that no row is nearest to.
        spherical: keep centroids at length one (for rows of length one, or zero rows, which pull nothing).
        refill: False leaves a centroid that no row is nearest to where it is.

    Returns:
        float32[C, E].

    Numerics: float32; sums run in the device's order, so centroids may differ in the last bits between machines.
    """
    tiles = jnp.asarray(tiled(rows, tile_rows_for(len(first))))
    draw = np.random.default_rng(seed)
    # The last step refills nothing: a row that was put there has not been compared with any other yet.
    spare = draw.integers(0, len(rows), (iterations, len(first))) if refill else np.full((iterations, len(first)), -1)
    spare[-1:] = -1
    return np.asarray(
        _fitted(tiles, jnp.asarray(first), jnp.asarray(spare, jnp.int32), count=len(rows), spherical=spherical)
    )


def nearest(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """int32[S], the centroid at the least Euclidean distance from each row; the first of equals."""
    tiles = jnp.asarray(tiled(rows, tile_rows_for(len(centroids))))
    return np.asarray(_owners(tiles, jnp.asarray(centroids))).reshape(-1)[: len(rows)]


def unit_scale(*sides: jax.Array) -> jax.Array:
    """float32 scalar, the power of two that brings the largest value of some arrays between a half and 4; jittable.

    Squares leave float32 beyond 1e19 and below 1e-19; by a power of two nothing is rounded.
    """
    peak = jnp.max(jnp.stack([jnp.max(jnp.abs(side)) for side in sides]))
    return jnp.ldexp(jnp.float32(1), -jnp.clip(jnp.frexp(peak)[1], -126, 126))


def owner_of(rows: jax.Array, centroids: jax.Array) -> jax.Array:
    """int32[n] nearest centroid of float32[n, E] rows of any magnitude; jittable."""
    scale = unit_scale(rows, centroids)
    rows, centroids = rows * scale, centroids * scale
    half = 0.5 * jnp.sum(jnp.square(centroids), axis=1)
    scores = jnp.matmul(rows, centroids.T, preferred_element_type=jnp.float32) - half[None, :]
    return jnp.argmax(scores, axis=1).astype(jnp.int32)


@partial(jax.jit, static_argnames=("count", "spherical"))
def _fitted(tiles: jax.Array, centroids: jax.Array, spare: jax.Array, *, count: int, spherical: bool) -> jax.Array:
    flat = tiles.reshape(-1, tiles.shape[-1])
    real = (jnp.arange(flat.shape[0]) < count).astype(jnp.float32).reshape(tiles.shape[:2])

    def step(centroids: jax.Array, spare: jax.Array) -> tuple[jax.Array, None]:
        def add(sums: tuple[jax.Array, jax.Array], part: tuple[jax.Array, jax.Array]):
            tile, own = part
            owner = owner_of(tile, centroids)
            return (sums[0].at[owner].add(tile), sums[1].at[owner].add(own)), None

        empty = jnp.zeros_like(centroids), jnp.zeros(centroids.shape[0], jnp.float32)
        (sums, counts), _ = jax.lax.scan(add, empty, (tiles, real))
        share = jnp.linalg.norm(sums, axis=1) if spherical else counts
        means = sums / jnp.where(share > 0, share, 1.0)[:, None]
        kept = jnp.where((spare >= 0)[:, None], flat[jnp.maximum(spare, 0)], centroids)
        return jnp.where((share > 0)[:, None], means, kept), None

    return jax.lax.scan(step, centroids, spare)[0]


@jax.jit
def _owners(tiles: jax.Array, centroids: jax.Array) -> jax.Array:
    return jax.lax.map(lambda tile: owner_of(tile, centroids), tiles)
