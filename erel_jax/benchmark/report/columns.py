"""The columns of the comparison: title, unit, direction, definition, and what must not be compared.

Each renderer walks `COLUMNS`, so a column is described once for the terminal, Markdown and the page.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from erel_jax.benchmark.report import quantities
from erel_jax.benchmark.summary import MethodSummary, Summary


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the comparison.

    Attributes:
        key: field of the records, or "quality" or "margin".
        title: short heading.
        better: "higher" or "lower".
        format: value to text, None to "n/a".
        definition: what the number is, with its unit.
        caution: what it must not be compared with.
    """

    key: str
    title: str
    better: Literal["higher", "lower"]
    format: Callable[[float | None], str]
    definition: str
    caution: str

    def value(self, method: MethodSummary) -> float | None:
        """Return the mean over seeds, None where unavailable."""
        if self.key == "quality":
            return method.quality.mean if method.quality else None
        if self.key == "margin":
            return method.verdict.margin if method.verdict else None
        found = method.costs[self.key]
        return found.mean if found else None

    def text(self, method: MethodSummary) -> str:
        """Return the formatted mean over seeds."""
        return self.format(self.value(method))

    def reason(self, method: MethodSummary, summary: Summary) -> str:
        """Return why the value is unavailable."""
        if self.value(method) is not None:
            return ""
        if self.key == "margin":
            return "floors are what methods are compared with" if method.kind == "floor" else "nothing to compare"
        return method.reason(f"metrics.{summary.headline}" if self.key == "quality" else self.key) or "not recorded"


def _score(value: float | None) -> str:
    return quantities.fraction(value, 3)


COLUMNS = (
    Column(
        key="quality",
        title="Quality",
        better="higher",
        format=quantities.fraction,
        definition="The headline metric on the test split, 0 to 1, mean over seeds; ± is the standard deviation over "
        "seeds.",
        caution="Compare only the same metric on the same data set, split and candidate set.",
    ),
    Column(
        key="margin",
        title="vs floor",
        better="higher",
        format=quantities.signed,
        definition="Quality minus the quality of the best floor. It counts when it exceeds twice the noise: the larger "
        "of the spread over seeds and the binomial standard error of the difference.",
        caution="A margin within the noise is a tie, whatever its sign.",
    ),
    Column(
        key="trainable_parameters",
        title="Trainable",
        better="lower",
        format=quantities.count,
        definition="Number of parameters that receive a gradient (k = 10³, M = 10⁶).",
        caution="Few trainable parameters do not mean little memory: activations usually dominate.",
    ),
    Column(
        key="train_step_seconds",
        title="Step",
        better="lower",
        format=quantities.seconds,
        definition="Median wall time of one training step after warm-up, the result waited for. Compilation, feature "
        "extraction and evaluation are timed apart.",
        caution="Not across machines, batch sizes or precisions.",
    ),
    Column(
        key="peak_bytes",
        title="Memory",
        better="lower",
        format=quantities.size,
        definition="Peak memory of the method's own process (MB = 10⁶ bytes); the source is under All numbers.",
        caution="Device memory, peak RSS and compiled sizes measure different things: compare equal sources only.",
    ),
    Column(
        key="encode_items_per_second",
        title="Encode/s",
        better="higher",
        format=quantities.count,
        definition="Items encoded per second, batched, with the adapted encoder.",
        caution="Not across machines, precisions or batch sizes.",
    ),
    Column(
        key="query_seconds_p50",
        title="Query p50",
        better="lower",
        format=quantities.seconds,
        definition="Median latency of one query at batch size 1: encoding the query and scoring all items. The 99th "
        "percentile is under All numbers.",
        caution="Not across machines or corpus sizes.",
    ),
    Column(
        key="bytes_per_item",
        title="Bytes/item",
        better="lower",
        format=quantities.size,
        definition="Stored bytes per item of the representation that is searched (kB = 10³ bytes).",
        caution="Excludes the encoder's weights and any index structure.",
    ),
    Column(
        key="tpme",
        title="TPME",
        better="lower",
        format=_score,
        definition="Training-time, parameter and memory efficiency: each cost scaled to 0–1 over the learned methods "
        "of this run, weighted .45, .10, .45. 0 is cheapest on all three, 1 dearest.",
        caution="Relative to this run: adding a method changes every score. Compare equal set hashes only. Covers "
        "training alone.",
    ),
    Column(
        key="pscp",
        title="PSCP",
        better="higher",
        format=quantities.fraction,
        definition="Quality discounted by trainable parameters (halved at 5·10⁸), training FLOPs per example (at 10¹³) "
        "and peak memory (at 94 GB).",
        caution="Compare equal metrics only. At small scale every discount is close to 1 and PSCP is close to quality.",
    ),
)

METRIC_NAME = re.compile(r"(?P<direction>\w+_to_\w+/)?(?P<family>[a-z_]+?@?)\d*(?P<ties>_ties_by_id)?")

METRIC_TERMS = {
    "hr@": (
        "hr@k",
        "Share of users whose held-out item is among the k best of the whole catalog, items seen before left out.",
    ),
    "recall@": ("recall@k", "Share of queries with at least one right item among the k best (a hit rate)."),
    "recall_fraction@": (
        "recall_fraction@k",
        "Share of a query's right items that is among the k best, mean over queries.",
    ),
    "ndcg@": ("ndcg@k", "Hits at rank r count 1 / log2(1 + r), scaled so that the best possible order gives 1."),
    "mrr": ("mrr", "Mean of 1 / rank of the best right item."),
    "_ties_by_id": (
        "…_ties_by_id",
        "Equal scores are ranked by item number; names without it count ties for the method.",
    ),
    "_to_/": ("…_to_…/", "Direction of search; names without it are the mean of both directions."),
}
"""Families of metric names: how the family is written and what it means."""


def metric_terms(names: Iterable[str]) -> list[tuple[str, str]]:
    """Define the metrics that occur.

    Args:
        names: names of metrics.

    Returns:
        (family, definition) pairs in the order of `METRIC_TERMS`; unknown names have none.
    """
    found: set[str | None] = set()
    for name in names:
        match = METRIC_NAME.fullmatch(name.casefold())
        found |= set(match.group("direction", "family", "ties")) if match else set()
        found |= {"_to_/"} if match and match["direction"] else set()
    return [(shown, text) for key, (shown, text) in METRIC_TERMS.items() if key in found]


def best_rows(column: Column, methods: tuple[MethodSummary, ...]) -> set[str]:
    """Find the methods that hold the best value of a column; none if all values are equal.

    Args:
        column: the column.
        methods: the learned methods.

    Returns:
        Names of the methods that print the best value.
    """
    values = {method.method: value for method in methods if (value := column.value(method)) is not None}
    if len({column.format(value) for value in values.values()}) < 2:
        return set()
    best = max(values.values()) if column.better == "higher" else min(values.values())
    return {name for name, value in values.items() if column.format(value) == column.format(best)}
