"""Percentiles by hand, warm-up, and that results are waited for."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError
from erel_jax.profiling.timing import Timing, latency, measure, percentile, summarize, throughput


def test_percentiles_by_hand_and_by_numpy():
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0, 2.0], 25) == 1.25
    values = np.random.default_rng(0).random(37).tolist()
    for q in (0, 1, 25, 50, 75, 99, 100):
        assert percentile(values, q) == pytest.approx(np.percentile(values, q))
    with pytest.raises(ConfigError, match="no values"):
        percentile([], 50)


def test_summary():
    timing = summarize([4.0, 1.0, 3.0, 2.0])
    assert timing == Timing(median=2.5, p25=1.75, p75=3.25, p99=timing.p99, repeats=4)
    assert timing.p99 == pytest.approx(3.97)
    assert timing.spread == 1.5
    assert timing.p50 == timing.median


def test_warm_up_is_not_timed():
    calls = []

    def slow_at_first(x):
        calls.append(x)
        time.sleep(0.2 if len(calls) <= 2 else 0.001)
        return x

    timing = measure(slow_at_first, jnp.zeros(()), warmup=2, repeats=5)
    assert len(calls) == 7
    assert timing.repeats == 5
    assert timing.p99 < 0.2


def test_results_are_waited_for():
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 40, lambda _, c: jnp.tanh(c @ x), x))
    x = jnp.full((400, 400), 0.01)
    start = time.perf_counter()
    jax.block_until_ready(step(x))
    start = time.perf_counter()
    jax.block_until_ready(step(x))
    once = time.perf_counter() - start
    assert measure(step, x, warmup=1, repeats=3).median > once / 10


def test_latency_gives_each_query_its_arguments():
    seen = []

    def query(x):
        seen.append(int(x))
        return x

    timing = latency(query, lambda i: (jnp.asarray(i),), queries=6, warmup=2)
    assert seen == list(range(8))
    assert timing.repeats == 6
    assert timing.p50 <= timing.p99


def test_throughput_counts_measured_batches_alone():
    def encode(batch):
        time.sleep(0.02)
        return batch

    rate = throughput(encode, [jnp.zeros(4)] * 6, batch_size=4, warmup=1)
    assert 20 < rate <= 4 / 0.02
    with pytest.raises(ConfigError, match="warm-up"):
        throughput(encode, [jnp.zeros(4)], batch_size=4, warmup=1)


def test_no_repeats_is_refused():
    with pytest.raises(ConfigError, match="repeats"):
        measure(lambda x: x, jnp.zeros(()), repeats=0)
