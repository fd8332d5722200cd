"""From the records of one run to what the report says.

The records of one task on one data set are grouped by method, averaged over seeds, given the set-relative scores,
compared with the best training-free floor, and placed on the Pareto front of each cost. Everything here is plain
arithmetic on `Record`s and can be recomputed from `records.jsonl`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from erel_jax.benchmark.record import NOT_FOR_FLOORS, NOT_SUMMARIZED, Record
from erel_jax.benchmark.verdict import FloorVerdict, Spread, judge, spread
from erel_jax.errors import ConfigError, suggest
from erel_jax.metrics.efficiency import CostTriple, pareto_front, pscp, tpme

COST_AXES = ("train_step_seconds", "peak_bytes", "trainable_parameters", "query_seconds_p50", "bytes_per_item")
"""Costs against which quality is plotted; lower is better on each."""

TRAINING_AXES = ("train_step_seconds", "peak_bytes", "trainable_parameters")
"""Costs of training: floors take no part in these fronts."""

FEW_QUERIES = 30
"""Fewer test queries than that are pointed out."""

HEADLINE_SUFFIXES = ("hr@10", "recall@10", "ndcg@10", "recall@1")
"""Metric names to compare methods by when the records do not name one, best first."""


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One method over all its seeds.

    Attributes:
        method: its name.
        kind: "learned" or "floor".
        records: its records, by seed.
        quality: headline metric over seeds, None if unavailable.
        costs: every numeric field of the records over seeds, None where unavailable.
        verdict: comparison with the best floor; None for floors and where there is nothing to compare.
        front: for each cost axis whether the method is on the Pareto front.
    """

    method: str
    kind: str
    records: tuple[Record, ...]
    quality: Spread | None
    costs: dict[str, Spread | None]
    verdict: FloorVerdict | None = None
    front: dict[str, bool] = dataclasses.field(default_factory=dict)

    def reason(self, field: str) -> str:
        """Return why a value is unavailable, as the records say; empty where it is available."""
        reasons = {record.unavailable[field] for record in self.records if field in record.unavailable}
        return "; ".join(sorted(reasons))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one run showed.

    Attributes:
        task: task name.
        data: data set name.
        headline: the metric methods are compared by.
        learned: learned methods, best headline quality first.
        floors: floors, best first.
        records: all records with scores filled in, in input order.
        tpme_set: hash of the set that TPME was computed over, None if no record has a TPME.
        cautions: sentences about what limits the comparison.
    """

    task: str
    data: str
    headline: str
    learned: tuple[MethodSummary, ...]
    floors: tuple[MethodSummary, ...]
    records: tuple[Record, ...]
    tpme_set: str | None
    cautions: tuple[str, ...]

    @property
    def best_floor(self) -> MethodSummary | None:
        """The floor with the best headline quality, None if there is none."""
        return self.floors[0] if self.floors and self.floors[0].quality else None


def headline_metric(records: Sequence[Record]) -> str:
    """Find the metric that methods are compared by.

    Args:
        records: the records of one run.

    Returns:
        The metric the records name; otherwise the first whose name ends in one of `HEADLINE_SUFFIXES`; otherwise
        the first metric.

    Raises:
        ConfigError: no record has a metric, or records name different ones.
    """
    named = {record.headline_metric for record in records} - {None}
    if len(named) > 1:
        raise ConfigError(f"got records with different headline metrics ({', '.join(sorted(map(str, named)))})")
    if named:
        return str(named.pop())
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    if not names:
        raise ConfigError("got records without metrics, expected at least one metric per record")
    for suffix in HEADLINE_SUFFIXES:
        for name in names:
            if name.casefold().endswith(suffix):
                return name
    return names[0]


def fill_scores(records: Sequence[Record], headline: str | None = None) -> list[Record]:
    """Compute TPME and PSCP of the learned records of one run.

    Args:
        records: all records of one task on one data set; floors pass through.
        headline: metric that PSCP discounts; `headline_metric(records)` if None.

    Returns:
        New records in the same order. Records whose scores need an unavailable value get a reason.

    TPME compares `train_seconds`, `trainable_parameters` and `peak_bytes` over all learned records (every seed). PSCP
    takes trainable parameters, training FLOPs per example (step FLOPs over batch size) and peak memory.
    """
    headline = headline or headline_metric(records)
    learned = [record for record in records if record.kind == "learned"]
    scores = tpme([CostTriple(r.train_seconds, r.trainable_parameters, r.peak_bytes) for r in learned])
    filled = iter(
        _with_scores(record, value, reason, scores.set_hash, headline)
        for record, value, reason in zip(learned, scores.values, scores.reasons, strict=True)
    )
    return [next(filled) if record.kind == "learned" else _without_scores(record) for record in records]


def summarize(records: Sequence[Record], headline: str | None = None) -> Summary:
    """Summarize the records of one task on one data set.

    Args:
        records: floors and learned methods, any number of seeds each.
        headline: metric to compare methods by; `headline_metric(records)` if None.

    Returns:
        The summary, with `fill_scores` applied.

    Raises:
        ConfigError: no records, several tasks or data sets, a method that is both floor and learned, or an unknown
            headline metric.
    """
    _check_one_run(records)
    headline = headline or headline_metric(records)
    known = dict.fromkeys(name for record in records for name in record.metrics)
    if headline not in known:
        raise ConfigError(f"got headline metric {headline!r}, which no record has. {suggest(headline, known)}")
    filled = fill_scores(records, headline)
    methods = [_grouped(filled, name, headline) for name in dict.fromkeys(record.method for record in filled)]
    methods.sort(key=lambda m: -m.quality.mean if m.quality else 1.0)
    floors = [m for m in methods if m.kind == "floor"]
    best = floors[0] if floors and floors[0].quality else None
    judged = [_judged(method, best) for method in methods]
    placed = _with_fronts(judged)
    return Summary(
        task=records[0].task,
        data=records[0].data,
        headline=headline,
        learned=tuple(m for m in placed if m.kind == "learned"),
        floors=tuple(m for m in placed if m.kind == "floor"),
        records=tuple(filled),
        tpme_set=next((r.tpme_set for r in filled if r.tpme_set), None),
        cautions=tuple(_cautions(filled, best, headline)),
    )


def findings(summary: Summary) -> list[str]:
    """Say in whole sentences which learned methods beat the best floor and which do not.

    Args:
        summary: the summary of a run.

    Returns:
        One sentence per outcome, methods named.
    """
    best = summary.best_floor
    if best is None or best.quality is None:
        return ["No floor has a result, so nothing shows whether training was worth its cost."]
    if not summary.learned:
        return [f"No learned method was run. The best floor is {best.method} with {best.quality.mean:.4f}."]
    outcomes: dict[str, list[str]] = {"above": [], "tie": [], "below": [], "unknown": []}
    for method in summary.learned:
        if method.verdict is None:
            outcomes["unknown"].append(method.method)
        else:
            outcomes[method.verdict.outcome].append(method.method)
    floor = f"{best.method} ({summary.headline} {best.quality.mean:.4f})"
    sentences = []
    if outcomes["above"]:
        sentences.append(f"By more than the noise above the best floor, {floor}: {_listed(outcomes['above'])}.")
    else:
        sentences.append(f"No learned method beats the best floor, {floor}, by more than the noise.")
    if outcomes["tie"]:
        sentences.append(f"Within the noise of it: {_listed(outcomes['tie'])}.")
    if outcomes["below"]:
        sentences.append(f"Below it, so not worth their cost here: {_listed(outcomes['below'])}.")
    if outcomes["unknown"]:
        sentences.append(f"Without a result: {_listed(outcomes['unknown'])}.")
    return sentences


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _check_one_run(records: Sequence[Record]) -> None:
    if not records:
        raise ConfigError("got no records, expected at least one; run `erel bench` first")
    runs = sorted({(record.task, record.data) for record in records})
    if len(runs) > 1:
        listing = ", ".join(f"{task} on {data}" for task, data in runs)
        raise ConfigError(f"got records of {listing}, expected one task on one data set; summarize each alone")
    kinds: dict[str, str] = {}
    for record in records:
        if kinds.setdefault(record.method, record.kind) != record.kind:
            raise ConfigError(f"got {record.method!r} both as a floor and as a learned method; rename one")


def _with_scores(record: Record, score: float | None, reason: str | None, set_hash: str, headline: str) -> Record:
    unavailable = {k: v for k, v in record.unavailable.items() if k not in ("tpme", "tpme_set", "pscp")}
    if score is None:
        unavailable["tpme"] = unavailable["tpme_set"] = reason or NOT_SUMMARIZED
    discounted, absent = _pscp_of(record, headline)
    if discounted is None:
        unavailable["pscp"] = f"PSCP needs {', '.join(absent)}, which is unavailable"
    return dataclasses.replace(
        record,
        tpme=score,
        tpme_set=None if score is None else set_hash,
        pscp=discounted,
        unavailable=unavailable,
    )


def _without_scores(record: Record) -> Record:
    names = ("tpme", "tpme_set", "pscp")
    unavailable = dict(record.unavailable) | dict.fromkeys(names, NOT_FOR_FLOORS)
    return dataclasses.replace(record, tpme=None, tpme_set=None, pscp=None, unavailable=unavailable)


def _pscp_of(record: Record, headline: str) -> tuple[float | None, list[str]]:
    inputs = {
        headline: record.metrics.get(headline),
        "trainable_parameters": record.trainable_parameters,
        "train_flops_per_step": record.train_flops_per_step,
        "batch_size": record.batch_size or None,
        "peak_bytes": record.peak_bytes,
    }
    absent = [name for name, value in inputs.items() if value is None]
    if absent:
        return None, absent
    flops_per_example = float(record.train_flops_per_step or 0) / float(record.batch_size or 1)
    score = pscp(
        inputs[headline],
        parameters=record.trainable_parameters,
        tera_flops=flops_per_example / 1e12,
        gigabytes=float(record.peak_bytes or 0) / 1e9,
    )
    return score, []


def _grouped(records: Sequence[Record], name: str, headline: str) -> MethodSummary:
    own = tuple(sorted((r for r in records if r.method == name), key=lambda r: r.seed))
    numeric = [f.name for f in dataclasses.fields(Record) if f.metadata.get("check", "text") != "text"]
    return MethodSummary(
        method=name,
        kind=own[0].kind,
        records=own,
        quality=spread([record.metrics.get(headline) for record in own]),
        costs={field: spread([getattr(record, field) for record in own]) for field in numeric},
    )


def _judged(method: MethodSummary, best: MethodSummary | None) -> MethodSummary:
    if method.kind == "floor" or best is None or best.quality is None or method.quality is None:
        return method
    counts = [record.evaluated_queries for record in (*method.records, *best.records)]
    queries = None if any(count is None for count in counts) else min(count for count in counts if count is not None)
    return dataclasses.replace(method, verdict=judge(method.quality, best.method, best.quality, queries))


def _with_fronts(methods: Sequence[MethodSummary]) -> list[MethodSummary]:
    fronts: list[dict[str, bool]] = [{} for _ in methods]
    for axis in COST_AXES:
        compared = [m.kind == "learned" or axis not in TRAINING_AXES for m in methods]
        costs = [m.costs[axis] for m in methods]
        front = pareto_front(
            [m.quality.mean if m.quality else None for m in methods],
            [cost.mean if cost and kept else None for cost, kept in zip(costs, compared, strict=True)],
        )
        for marks, member in zip(fronts, front, strict=True):
            marks[axis] = member
    return [dataclasses.replace(method, front=marks) for method, marks in zip(methods, fronts, strict=True)]


def _cautions(records: Sequence[Record], best: MethodSummary | None, headline: str) -> list[str]:
    learned = [record for record in records if record.kind == "learned"]
    cautions = _of_the_test(records, headline)
    if best is None:
        cautions.append("No floor was run: quality has nothing to be measured against.")
    if learned and all(sum(r.method == record.method for r in learned) == 1 for record in learned):
        cautions.append("One seed per method: how much the seed matters is unknown.")
    if any(record.evaluated_queries is None for record in records):
        cautions.append("The number of test queries is unknown, so no standard error is given.")
    for label, values in (
        ("Peak memory was measured in different ways", {r.peak_bytes_source for r in learned} - {None}),
        ("Batch sizes differ, so step times are not comparable", {r.batch_size for r in learned} - {None}),
        *(
            (f"Records come from different environments ({key})", {r.environment.get(key) for r in records})
            for key in ("device", "cpu", "precision", "jax", "commit")
        ),
    ):
        if len(values) > 1:
            cautions.append(f"{label}: {', '.join(sorted(map(str, values)))}.")
    recompiled = dict.fromkeys(record.method for record in records if record.recompiles_after_warmup)
    if recompiled:
        cautions.append(f"Something was compiled after warm-up, so times are too high: {_listed(list(recompiled))}.")
    return cautions


def _of_the_test(records: Sequence[Record], headline: str) -> list[str]:
    """What the test itself cannot show, whatever was measured on it."""
    cautions = []
    queries = min(
        (record.evaluated_queries for record in records if record.evaluated_queries is not None), default=None
    )
    if queries is not None and queries < FEW_QUERIES:
        cautions.append(
            f"Few test queries ({queries}): one more hit changes {headline} by {1 / max(queries, 1):.2f}. Compare on "
            "more data before choosing a method."
        )
    values = {record.metrics[headline] for record in records if headline in record.metrics}
    if len({record.method for record in records}) > 1 and len(values) == 1:
        cautions.append(
            f"All rows have the same {headline}, {values.pop():.4f}: this test cannot tell methods apart. It has too "
            "few items to rank or too few queries, or its targets can never be a hit."
        )
    return cautions
