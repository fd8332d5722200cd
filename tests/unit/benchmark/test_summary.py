"""From records to scores, verdicts and fronts."""

import dataclasses
from typing import Any

import pytest

from erel_jax.benchmark.record import NOT_FOR_FLOORS, Record
from erel_jax.benchmark.summary import COST_AXES, fill_scores, findings, headline_metric, summarize
from erel_jax.errors import ConfigError

ENVIRONMENT = {
    "python": "3.11.7",
    "jax": "0.10.2",
    "package_version": "0.1.0",
    "commit": "0123abc",
    "device": "cpu",
    "cpu": "test",
    "cores": 2,
    "os": "Linux",
    "precision": "float32",
}
COMMON: dict[str, Any] = {
    "task": "retrieval",
    "data": "toy",
    "command": "erel bench",
    "environment": ENVIRONMENT,
    "evaluated_queries": 1000,
    "total_parameters": 1000,
    "peak_bytes_source": "peak RSS",
    "encode_items_per_second": 10.0,
    "query_seconds_p50": 0.001,
    "query_seconds_p99": 0.002,
    "bytes_per_item": 8.0,
}


def floor(name, quality, **changes):
    values: dict[str, Any] = COMMON | {"peak_bytes": 10, "trainable_parameters": 0} | changes
    return Record(
        method=name,
        kind="floor",
        seed=0,
        metrics={"recall@10": quality},
        unavailable={"energy_joules": "no counter"},
        **values,
    )


def learned(name, quality, seconds, parameters, memory, *, seed=0, **changes):
    costs = {
        "train_seconds": seconds,
        "train_step_seconds": None if seconds is None else seconds / 100,
        "trainable_parameters": parameters,
        "train_flops_per_step": 3.2e13,
        "batch_size": 32,
        "peak_bytes": memory,
        "recompiles_after_warmup": 0,
    }
    values = COMMON | costs | changes
    reasons = {field: "not measured" for field in costs if values[field] is None} | {"energy_joules": "no counter"}
    return Record(method=name, kind="learned", seed=seed, metrics={"recall@10": quality}, unavailable=reasons, **values)


def run():
    return [
        floor("popularity", 0.10),
        floor("markov", 0.30, query_seconds_p50=0.0001),
        learned("cheap", 0.32, 10, 100, 20e9),
        learned("dear", 0.60, 30, 500, 60e9),
        learned("middle", 0.50, 20, 300, 40e9),
        learned("bad", 0.10, 25, 300, 50e9),
    ]


def test_tpme_and_pscp_are_filled_in_for_learned_records():
    filled = fill_scores(run())
    assert [r.method for r in filled] == [r.method for r in run()]
    scores = {r.method: r.tpme for r in filled}
    assert scores["popularity"] is None and filled[0].unavailable["tpme"] == NOT_FOR_FLOORS
    assert scores["cheap"] == 0.0
    assert scores["dear"] == pytest.approx(1.0)
    assert scores["middle"] == pytest.approx(0.5)
    assert len({r.tpme_set for r in filled if r.kind == "learned"}) == 1
    # 1e12 FLOPs per example halve nothing: 1 + 1 / 10; 94 GB would halve.
    dear = next(r for r in filled if r.method == "dear")
    assert dear.pscp == pytest.approx(0.6 / (1 + 500 / 5e8) / 1.1 / (1 + 60 / 94))


def test_filling_twice_changes_nothing():
    once = fill_scores(run())
    assert fill_scores(once) == once


def test_a_missing_cost_leaves_the_method_out_of_the_set():
    records = [*run(), learned("unmeasured", 0.4, 1.0, 10, None, train_flops_per_step=None)]
    filled = fill_scores(records)
    assert filled[-1].tpme is None and filled[-1].tpme_set is None and filled[-1].pscp is None
    assert filled[-1].unavailable["tpme"] == "TPME needs peak_bytes, which is unavailable"
    assert filled[-1].unavailable["pscp"] == "PSCP needs train_flops_per_step, peak_bytes, which is unavailable"
    assert [r.tpme for r in filled[:-1]] == [r.tpme for r in fill_scores(run())]


def test_verdicts_and_order():
    summary = summarize(run())
    assert [m.method for m in summary.learned] == ["dear", "middle", "cheap", "bad"]
    assert [m.method for m in summary.floors] == ["markov", "popularity"]
    assert summary.best_floor is not None and summary.best_floor.method == "markov"
    outcomes = {m.method: m.verdict.outcome for m in summary.learned if m.verdict}
    assert outcomes == {"dear": "above", "middle": "above", "cheap": "tie", "bad": "below"}
    assert all(m.verdict is None for m in summary.floors)


def test_findings_name_every_learned_method_once():
    sentences = findings(summarize(run()))
    assert sentences == [
        "By more than the noise above the best floor, markov (recall@10 0.3000): dear and middle.",
        "Within the noise of it: cheap.",
        "Below it, so not worth their cost here: bad.",
    ]
    only_bad = findings(summarize([run()[1], run()[-1]]))
    assert only_bad[0].startswith("No learned method beats the best floor, markov")
    assert findings(summarize(run()[2:])) == [
        "No floor has a result, so nothing shows whether training was worth its cost."
    ]
    assert findings(summarize(run()[:2])) == ["No learned method was run. The best floor is markov with 0.3000."]


def test_fronts_per_axis():
    summary = summarize(run())
    methods = {m.method: m for m in (*summary.learned, *summary.floors)}
    on_front = {axis: {name for name, m in methods.items() if m.front[axis]} for axis in COST_AXES}
    assert on_front["train_step_seconds"] == {"cheap", "middle", "dear"}
    # Floors take no part in training costs although their parameter count is 0.
    assert on_front["trainable_parameters"] == {"cheap", "middle", "dear"}
    assert on_front["query_seconds_p50"] == {"markov", "dear"}
    assert on_front["bytes_per_item"] == {"dear"}


def test_mean_and_spread_over_seeds():
    records = [
        run()[0],
        learned("lora", 0.4, 10, 100, 20e9, seed=1),
        learned("lora", 0.6, 20, 100, 20e9, seed=0),
        learned("lora", 0.5, None, 100, 20e9, seed=2),
    ]
    (lora,) = summarize(records).learned
    assert [r.seed for r in lora.records] == [0, 1, 2]
    assert lora.quality is not None and lora.quality.deviation is not None
    assert (lora.quality.mean, lora.quality.deviation) == (pytest.approx(0.5), pytest.approx(0.1))
    seconds = lora.costs["train_seconds"]
    assert seconds is not None and (seconds.mean, seconds.count) == (15.0, 2)


def test_headline_metric():
    with_metrics = [
        dataclasses.replace(run()[0], metrics={"mrr": 0.1, "image_to_text/Recall@1": 0.1, "text/Recall@10": 0.2})
    ]
    assert headline_metric(with_metrics) == "text/Recall@10"
    assert headline_metric([dataclasses.replace(run()[0], metrics={"mrr": 0.1, "map": 0.2})]) == "mrr"
    named = [dataclasses.replace(record, headline_metric="recall@10") for record in run()]
    assert headline_metric(named) == "recall@10"
    other = dataclasses.replace(run()[0], metrics={"mrr": 0.1}, headline_metric="mrr")
    with pytest.raises(ConfigError, match="different headline metrics"):
        headline_metric([*named, other])
    with pytest.raises(ConfigError, match="without metrics"):
        headline_metric([dataclasses.replace(run()[0], metrics={})])
    with pytest.raises(ConfigError, match="Did you mean 'recall@10'"):
        summarize(run(), "recall@1")


def test_a_method_without_the_headline_metric_comes_last():
    broken = dataclasses.replace(
        run()[2],
        method="broken",
        metrics={"recall@10": None},
        unavailable={**run()[2].unavailable, "metrics.recall@10": "evaluation failed"},
    )
    summary = summarize([*run(), broken])
    assert summary.learned[-1].method == "broken"
    assert summary.learned[-1].reason("metrics.recall@10") == "evaluation failed"
    assert findings(summary)[-1] == "Without a result: broken."


def test_one_run_only():
    with pytest.raises(ConfigError, match="no records"):
        summarize([])
    with pytest.raises(ConfigError, match="recommendation on toy, retrieval on toy"):
        summarize([run()[0], dataclasses.replace(run()[1], task="recommendation")])
    with pytest.raises(ConfigError, match="both as a floor and as a learned"):
        summarize([run()[0], learned("popularity", 0.5, 1, 1, 1)])


def test_cautions_say_what_limits_the_comparison():
    assert summarize(run()).cautions == ("One seed per method: how much the seed matters is unknown.",)
    other_environment = ENVIRONMENT | {"cpu": "other"}
    records = [
        learned("a", 0.5, 1, 1, 1, peak_bytes_source="device memory statistics"),
        learned("b", 0.5, 1, 1, 1, batch_size=64, evaluated_queries=None, recompiles_after_warmup=2),
        learned("b", 0.5, 1, 1, 1, seed=1, environment=other_environment),
    ]
    text = "\n".join(summarize(records).cautions)
    for part in (
        "No floor was run",
        "number of test queries is unknown",
        "measured in different ways: device memory statistics, peak RSS",
        "Batch sizes differ, so step times are not comparable: 32, 64",
        "different environments (cpu): other, test",
        "compiled after warm-up, so times are too high: b",
    ):
        assert part in text
    assert "One seed" not in text


def test_a_test_that_cannot_tell_methods_apart_says_so():
    few = {"evaluated_queries": 1}
    same = [floor("chance", 1.0, **few), learned("lora", 1.0, 5.0, 10, 100, **few)]
    text = "\n".join(summarize(same).cautions)
    assert "Few test queries (1): one more hit changes recall@10 by 1.00" in text
    assert "All rows have the same recall@10, 1.0000: this test cannot tell methods apart" in text
    other = summarize([floor("chance", 0.5), learned("lora", 1.0, 5.0, 10, 100)]).cautions
    assert not any("cannot tell" in caution or "Few" in caution for caution in other)
