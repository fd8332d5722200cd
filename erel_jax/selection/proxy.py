"""Choice between filters by a small proxy run on the quality that counts.

Which filter is best changes with the training budget and with the target, so a fixed recipe is a guess. Here every
candidate selection trains the same small model on the same number of rows, and the target metric of held-out data
decides. `ridge_recall` is such a model for stored embeddings: a closed-form linear map, fitted in seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.metrics import two_way_retrieval
from erel_jax.selection.blocks import blocks_of
from erel_jax.selection.ids import row_groups
from erel_jax.selection.outcome import Outcome

Proxy = Callable[[np.ndarray, int], float]
"""`train(rows, seed)` trains a small model on the rows int64[K] and returns its quality on held-out data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProxyChoice:
    """What the proxy runs said.

    Attributes:
        chosen: name of the candidate of highest mean quality.
        qualities: one quality per seed for each candidate.
        rows: number of training rows of each run, one number per candidate.
        margin: mean quality of the chosen one minus that of the second best; 0 with a single candidate.
        spread: largest standard deviation over seeds of any candidate. A margin below it decides nothing.
    """

    chosen: str
    qualities: Mapping[str, tuple[float, ...]]
    rows: Mapping[str, int]
    margin: float
    spread: float

    def describe(self) -> str:
        """One line per candidate, best first, and whether the choice is clear."""
        ranked = sorted(self.qualities, key=lambda name: -float(np.mean(self.qualities[name])))
        lines = [f"{name}: {np.mean(self.qualities[name]):.4f} from {self.rows[name]} rows" for name in ranked]
        clear = "clear" if self.margin > self.spread else "within the spread of the seeds"
        return "\n".join([*lines, f"chosen: {self.chosen}, margin {self.margin:.4f}, {clear}"])


def choose_by_proxy(
    candidates: Mapping[str, Outcome], train: Proxy, *, budget: int | None = None, seeds: int = 3
) -> ProxyChoice:
    """Trains the proxy on each candidate's rows and compares.

    Args:
        candidates: outcomes on the same data by name.
        train: the proxy; with a fixed number of steps of its own it compares at equal compute.
        budget: most rows per run, drawn anew for each seed; None takes all kept rows.
        seeds: runs per candidate.

    Returns:
        The choice with all qualities.

    Raises:
        ConfigError: there is no candidate, or a setting is out of range.
        DataError: candidates saw different numbers of rows.
        NonFiniteError: a quality is NaN or infinite; names candidate and seed.
    """
    if not candidates or seeds < 1 or (budget is not None and budget < 1):
        raise ConfigError(f"got {len(candidates)} candidates, seeds={seeds}, budget={budget}; expected at least one.")
    if len({outcome.count for outcome in candidates.values()}) > 1:
        sizes = {name: outcome.count for name, outcome in candidates.items()}
        raise DataError(f"candidates saw different numbers of rows, {sizes}; expected outcomes on the same data.")
    qualities: dict[str, tuple[float, ...]] = {}
    rows: dict[str, int] = {}
    for name, outcome in candidates.items():
        found = []
        for seed in range(seeds):
            chosen = outcome.kept
            if budget is not None and budget < len(chosen):
                chosen = np.sort(np.random.default_rng(seed).choice(chosen, budget, replace=False))
            rows[name] = len(chosen)
            quality = float(train(chosen, seed))
            if not np.isfinite(quality):
                raise NonFiniteError(f"the proxy's quality of {name!r}, seed {seed}, is {quality}, expected a number.")
            found.append(quality)
        qualities[name] = tuple(found)
    means = sorted((float(np.mean(found)) for found in qualities.values()), reverse=True)
    return ProxyChoice(
        chosen=max(qualities, key=lambda name: float(np.mean(qualities[name]))),
        qualities=qualities,
        rows=rows,
        margin=means[0] - means[1] if len(means) > 1 else 0.0,
        spread=max(float(np.std(found)) for found in qualities.values()),
    )


def ridge_recall(
    queries: np.ndarray,
    items: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    strength: float = 1.0,
    k: int = 10,
) -> Proxy:
    """A proxy that maps stored query embeddings to item embeddings by ridge regression.

    Args:
        queries: float[N, D] embeddings of all training rows by any encoder.
        items: float[N, E] embeddings of their items by any encoder; the widths may differ.
        held_out: float[V, D], float[V, E], and int[V] group ids, for which rows of equal id are right answers.
        strength: ridge penalty relative to the mean variance of the queries.
        k: cut-off of the recall.

    Returns:
        A function of rows and seed that returns the mean Recall@k (hit style) of both directions on the held-out rows.

    Raises:
        DataError: the numbers of rows differ.
        ConfigError: embeddings are no floating point [N, E], the held-out widths differ from the training ones,
            group ids are no whole numbers, `strength` is not above 0, or `k` is below 1.
        NonFiniteError: an embedding holds NaN or infinity; names the side and its first rows.

    A negative group id is a missing one: the row's only right answer is its own partner.
    """
    if not (np.isfinite(strength) and strength > 0) or k < 1:
        raise ConfigError(f"got strength={strength} and k={k}, expected a number above 0 and at least 1.")
    if len(queries) != len(items):
        raise DataError(f"got {len(queries)} query and {len(items)} item embeddings, expected one of each per row.")
    test_queries, test_items, groups = held_out
    groups = row_groups("held-out group ids", groups)
    if test_queries.shape[1] != queries.shape[1] or test_items.shape[1] != items.shape[1]:
        raise ConfigError(
            f"held-out widths are {test_queries.shape[1]} and {test_items.shape[1]}, training widths "
            f"{queries.shape[1]} and {items.shape[1]}; expected the same encoders."
        )

    named = {"queries": queries, "items": items, "held-out queries": test_queries, "held-out items": test_items}
    for name, source in named.items():
        for _ in blocks_of(source, name):  # Reading is what checks.
            pass

    def train(rows: np.ndarray, seed: int) -> float:
        x, y = np.asarray(queries[rows], np.float64), np.asarray(items[rows], np.float64)
        x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
        x, y = x - x_mean, y - y_mean
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += strength * max(float(np.trace(gram)) / len(gram), 1e-12)
        mapped = (np.asarray(test_queries, np.float64) - x_mean) @ np.linalg.solve(gram, x.T @ y)
        targets = np.asarray(test_items, np.float64) - y_mean
        return two_way_retrieval(_unit(mapped), _unit(targets), groups, groups, ks=(k,))[f"recall@{k}"]

    return train


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
