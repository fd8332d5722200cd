"""Wall time of asynchronous programs: warm-up, repeats, medians and spread.

JAX returns before the work is done, and a first call compiles. Every measurement here warms up first and waits for
each result. Times of different machines, or of a machine with other load, must not be compared.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from erel_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call.

    Attributes:
        median, p25, p75: the middle half of the calls; `p75 - p25` is the spread.
        p50, p99: percentiles by linear interpolation; p99 of fewer than 100 calls is close to their maximum.
        repeats: number of calls measured.
    """

    median: float
    p25: float
    p75: float
    p99: float
    repeats: int

    @property
    def p50(self) -> float:
        """The median, under the name that latency tables use."""
        return self.median

    @property
    def spread(self) -> float:
        """Interquartile range in seconds."""
        return self.p75 - self.p25


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0 to 100) by linear interpolation between order statistics."""
    if not values:
        raise ConfigError("got no values, expected at least one measurement.")
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def summarize(seconds: Sequence[float]) -> Timing:
    """A `Timing` of measured seconds."""
    return Timing(
        median=statistics.median(seconds) if seconds else percentile(seconds, 50),
        p25=percentile(seconds, 25),
        p75=percentile(seconds, 75),
        p99=percentile(seconds, 99),
        repeats=len(seconds),
    )


def measure(fn: Callable[..., Any], *args: Any, warmup: int = 3, repeats: int = 10) -> Timing:
    """Times `fn(*args)` with the same arguments each time.

    Args:
        fn: a compiled step or any function whose result is a pytree of arrays. It must not donate its arguments.
        warmup: calls before the clock starts; the first compiles.
        repeats: calls measured, each waited for.
    """
    return _repeat(lambda: (fn, args), warmup, repeats)


def latency(
    fn: Callable[..., Any], make_args: Callable[[int], Sequence[Any]], *, queries: int = 200, warmup: int = 5
) -> Timing:
    """Times one query after another, as a single client would send them.

    Args:
        fn: the whole way of a query (encode, search).
        make_args: `make_args(i)` gives the arguments of query i; making them is not timed.
        queries: how many are measured; with fewer than 100, p99 is about their maximum.
        warmup: queries before the clock starts.

    Returns:
        A `Timing`; read `p50` and `p99`.
    """
    counter = iter(range(warmup + queries))
    return _repeat(lambda: (fn, tuple(make_args(next(counter)))), warmup, queries)


def throughput(fn: Callable[[Any], Any], batches: Iterable[Any], *, batch_size: int, warmup: int = 1) -> float:
    """Items per second over a run of batches, waiting once at the end as an encoding job does.

    Args:
        fn: encodes one batch.
        batches: batches of one shape; the first `warmup` compile and are not counted.
        batch_size: items per batch.

    Raises:
        ConfigError: there are no batches after the warm-up.
    """
    results, count, start = [], 0, 0.0
    for position, batch in enumerate(batches):
        if position < warmup:
            jax.block_until_ready(fn(batch))
            continue
        if position == warmup:
            start = time.perf_counter()
        results.append(fn(batch))
        count += 1
    if not count:
        raise ConfigError(f"got no batch after {warmup} of warm-up; give at least {warmup + 1}.")
    jax.block_until_ready(results)
    return count * batch_size / (time.perf_counter() - start)


def _repeat(prepare: Callable[[], tuple[Callable[..., Any], Sequence[Any]]], warmup: int, repeats: int) -> Timing:
    if repeats < 1:
        raise ConfigError(f"got {repeats} repeats, expected at least 1.")
    seconds = []
    for position in range(warmup + repeats):
        fn, args = prepare()
        jax.block_until_ready(args)
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        if position >= warmup:
            seconds.append(time.perf_counter() - start)
    return summarize(seconds)
