"""SemDeDup: removal of rows whose embedding says the same as that of another row.

Comparing all pairs of a large data set is out of reach, but near-duplicates lie in one cluster. Rows are clustered by
cosine; inside a cluster every pair is compared. All rows stand in one order, and a row falls when a row before it is
more alike than the threshold. The largest cosine to an earlier row is computed once (`duplicate_cosines`); any number
of thresholds can then be tried at no cost (`remove_duplicates`).

A near-duplicate pair can be divided by the border between two clusters. So a row is compared with the rows of its own
cluster and with rows for which that cluster is among the `probes` nearest.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import IO, Literal

import jax
import numpy as np

from erel_jax.errors import ConfigError
from erel_jax.selection.blocks import Embeddings, blocks_of
from erel_jax.selection.fingerprint import Fingerprint
from erel_jax.selection.kmeans import RowSample, fit_centroids, nearest_centroids
from erel_jax.selection.outcome import KEPT, Outcome, decide
from erel_jax.selection.pair_tiles import Earlier, compare_clusters

Keep = Literal["hard", "easy", "random"]


@dataclass(frozen=True, kw_only=True)
class DedupSettings:
    """How duplicates are looked for.

    Attributes:
        clusters: number of clusters; None takes the square root of the number of rows, at most 50,000.
        probes: nearest clusters in which a row can be found by the rows of that cluster; 1 is the published method.
        keep: which row of a pair stays: the one farther from its cluster's center ("hard"), the nearer one ("easy"),
            or a random one.
        iterations: Lloyd steps.
        sample_per_cluster: rows per cluster of the sample on which centroids are fitted.
        tile_rows: rows of a block of comparisons; memory is a few times tile_rows² and tile_rows x E floats.
        seed: of the sample, the first centroids and the random order.
    """

    clusters: int | None = None
    probes: int = 2
    keep: Keep = "hard"
    iterations: int = 10
    sample_per_cluster: int = 32
    tile_rows: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("probes", "iterations", "sample_per_cluster", "tile_rows"):
            if not _whole(getattr(self, name), 1):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected a whole number, at least 1.")
        if not _whole(self.seed, 0):
            raise ConfigError(f"seed is {self.seed!r}, expected a whole number from 0.")
        if self.clusters is not None and not _whole(self.clusters, 1):
            raise ConfigError(
                f"clusters is {self.clusters!r}, expected a whole number, at least 1, or None to choose by size."
            )
        if self.keep not in ("hard", "easy", "random"):
            raise ConfigError(f"keep is {self.keep!r}, expected 'hard', 'easy' or 'random'.")


@dataclass(frozen=True, kw_only=True, eq=False)
class DuplicateCosines:
    """How alike each row is to a row before it.

    Attributes:
        cosines: float32[N], largest cosine to an earlier row of the order; -2 where none was compared.
        partner: int64[N], that earlier row, or -1.
        fingerprint: digest of the embeddings.
        settings: how they were compared, the number of clusters filled in.
        largest_cluster: rows of the largest cluster; time grows with its square.
    """

    cosines: np.ndarray
    partner: np.ndarray
    fingerprint: str
    settings: DedupSettings
    largest_cluster: int


def semdedup(
    embeddings: Embeddings,
    *,
    epsilon: float = 0.05,
    settings: DedupSettings | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> Outcome:
    """Finds and removes near-duplicates: `remove_duplicates(duplicate_cosines(embeddings), epsilon)`.

    Args:
        embeddings: float[N, E], in memory or mapped from disk, or a stream of blocks. Normalized here.
        epsilon: rows with a cosine above 1 - epsilon are duplicates.
        settings: how they are compared, `DedupSettings()` by default.
        scratch: folder for a temporary copy of a stream; the system's temporary folder when None.

    Returns:
        The outcome, reason `near_duplicate`.

    Raises:
        ConfigError: a setting or the width of a block does not fit, or nothing can be written to `scratch`.
        DataError: there are no rows.
        NonFiniteError: rows hold NaN or infinity; names them.
    """
    check_epsilon(epsilon)
    return remove_duplicates(duplicate_cosines(embeddings, settings, scratch=scratch), epsilon)


def duplicate_cosines(
    embeddings: Embeddings,
    settings: DedupSettings | None = None,
    *,
    scratch: str | os.PathLike[str] | None = None,
) -> DuplicateCosines:
    """Measures, for each row, the largest cosine to a row before it among those it is compared with.

    Args, Raises: as `semdedup`.

    Returns:
        Cosines and partners; `remove_duplicates` and `group_near_duplicates` read them.

    Memory: the sample, blocks, and about 40 bytes per row; embeddings stay where they are. A stream is copied to
    `scratch` as float32, because rows of a cluster are read at random. Time grows with the squares of the cluster
    sizes.

    Numerics: cosines in float32 as the device multiplies float32.

    Reference: SemDeDup (Abbas et al. 2023); the second cluster per row is ours.
    """
    chosen = settings or DedupSettings()
    with _random_access(embeddings, chosen, scratch) as (rows, digest, count, sample):
        clusters = chosen.clusters or max(1, min(50_000, round(count**0.5)))
        clusters = min(clusters, count)
        probes = min(chosen.probes, clusters)
        kept = sample.rows()
        centroids = fit_centroids(kept, min(clusters, len(kept)), iterations=chosen.iterations, seed=chosen.seed)
        near, cosines = nearest_centroids(rows, centroids, probes=probes)
        found = compare_clusters(rows, near, _order(cosines, chosen), chosen.tile_rows)
    filled = replace(chosen, clusters=len(centroids), probes=probes)
    largest = int(np.bincount(near[:, 0]).max())
    return _measured(found, digest, filled, largest)


def remove_duplicates(measured: DuplicateCosines, epsilon: float) -> Outcome:
    """Removes rows that are more alike to an earlier row than a threshold.

    Args:
        measured: from `duplicate_cosines`.
        epsilon: rows with a cosine above 1 - epsilon fall, in 0..2. As published, a row also falls if the earlier row
            fell itself. The kept set shrinks as epsilon grows, and is never empty: the first row of the order stays.

    Returns:
        The outcome, reason `near_duplicate`.

    Raises:
        ConfigError: `epsilon` is out of range.
    """
    check_epsilon(epsilon)
    codes = np.where((measured.partner >= 0) & (measured.cosines > 1 - epsilon), 0, KEPT)
    settings = {"epsilon": epsilon, **asdict(measured.settings)}
    return decide("semdedup", settings, measured.fingerprint, codes, ("near_duplicate",))


def check_epsilon(epsilon: float) -> None:
    """Raises ConfigError unless the threshold is in 0..2."""
    if not 0 <= epsilon <= 2:
        raise ConfigError(f"epsilon is {epsilon}, expected 0 to 2; cosines above 1 - epsilon are duplicates.")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int | np.integer) and int(value) >= least


def _measured(found: Earlier, digest: str, settings: DedupSettings, largest: int) -> DuplicateCosines:
    return DuplicateCosines(
        cosines=found.cosines,
        partner=found.partner,
        fingerprint=digest,
        settings=settings,
        largest_cluster=largest,
    )


def _order(cosines: np.ndarray, settings: DedupSettings) -> np.ndarray:
    """int32[N], place of each row in the one order of all rows."""
    if settings.keep == "random":
        return np.random.default_rng(settings.seed).permutation(len(cosines)).astype(np.int32)
    order = np.argsort(cosines if settings.keep == "hard" else -cosines, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return place


@contextmanager
def _random_access(
    embeddings: Embeddings, settings: DedupSettings, scratch: str | os.PathLike[str] | None
) -> Iterator[tuple[np.ndarray, str, int, RowSample]]:
    """Rows that can be read in any order, with digest, number and sample of them; one pass over the source."""
    digest = Fingerprint("embeddings")
    count, width = 0, 0
    clusters = settings.clusters or _expected_clusters(embeddings)
    sample = RowSample(clusters * settings.sample_per_cluster, settings.seed)
    with ExitStack() as stack:
        copy = None
        if callable(embeddings):
            copy = stack.enter_context(_temporary_file(scratch))
        for start, block in blocks_of(embeddings):
            digest.rows(block)
            sample.add(block)
            count, width = start + len(block), block.shape[1]
            if copy is not None:
                copy.write(np.ascontiguousarray(block).data)
        if copy is None:
            rows = np.asarray(embeddings)
        else:
            copy.flush()
            rows = np.memmap(copy.name, np.float32, "r", shape=(count, width))
        yield rows, digest.digest(), count, sample


def _temporary_file(scratch: str | os.PathLike[str] | None) -> IO[bytes]:
    try:
        return tempfile.NamedTemporaryFile(dir=scratch, suffix=".f32")
    except OSError as error:
        raise ConfigError(
            f"scratch is {scratch}, and no temporary copy of the stream can be made there ({error}); name a folder "
            "that exists and can be written to."
        ) from error


def _expected_clusters(embeddings: Embeddings) -> int:
    if isinstance(embeddings, np.ndarray | jax.Array) and embeddings.ndim == 2:
        return max(1, min(50_000, round(embeddings.shape[0] ** 0.5)))
    return 1000
