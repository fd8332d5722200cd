"""Whether a learned method beats the best training-free floor by more than chance.

A learned method that does not beat a floor has not earned its cost. A margin is only worth a claim when it is larger
than the noise of the measurement, and there are two sources of noise: the seed (spread over seeds) and the finite
number of test queries (binomial standard error). A margin counts when it exceeds twice the larger of the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NOISE_MULTIPLE = 2.0
"""A margin must exceed this many standard deviations of noise."""


@dataclass(frozen=True)
class Spread:
    """Mean of a value over seeds.

    Attributes:
        mean: arithmetic mean.
        deviation: sample standard deviation (n - 1), None for one seed.
        count: number of seeds with a value.
    """

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the available values.

    Args:
        values: one value per seed, None where unavailable.

    Returns:
        The spread, or None if no value is available.

    >>> spread([0.25, None, 0.75])
    Spread(mean=0.5, deviation=0.3535533905932738, count=2)
    """
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return Spread(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return Spread(mean, math.sqrt(variance), len(known))


@dataclass(frozen=True)
class FloorVerdict:
    """How a learned method stands against the best floor on the headline metric.

    Attributes:
        floor: name of the best floor.
        margin: mean of the method minus mean of the floor; positive is better.
        seed_deviation: sample standard deviation of the method over seeds, None for one seed.
        standard_error: binomial standard error of the difference, None if the number of queries is unknown.
        outcome: "above" or "below" where the margin exceeds `NOISE_MULTIPLE` times the larger of the two noises (or
            where neither is known), "tie" otherwise.
    """

    floor: str
    margin: float
    seed_deviation: float | None
    standard_error: float | None
    outcome: Literal["above", "tie", "below"]

    @property
    def noise(self) -> float | None:
        """The larger of the two noises, None if neither is known."""
        return max((n for n in (self.seed_deviation, self.standard_error) if n is not None), default=None)


def judge(method: Spread, floor_name: str, floor: Spread, queries: int | None) -> FloorVerdict:
    """Compare a method with the best floor.

    Args:
        method: headline metric of the method over seeds, in 0..1.
        floor_name: name of the best floor.
        floor: the same metric of that floor.
        queries: number of test queries, or None if unknown.

    Returns:
        The verdict.

    The standard error is `sqrt((p (1 - p) + f (1 - f)) / queries)`: binomial for hit rates, an upper bound for any
    other mean of values in 0..1, and conservative because both are measured on the same queries. Rates within one
    query of 0 or 1 count as `1 / (queries + 2)` off them: that all of three queries hit does not mean that all will.
    """
    margin = method.mean - floor.mean
    error = None
    if queries:
        least = 1 / (queries + 2)
        rates = (min(max(rate, least), 1 - least) for rate in (method.mean, floor.mean))
        variance = math.fsum(rate * (1 - rate) for rate in rates)
        error = math.sqrt(variance / queries)
    noise = max((n for n in (method.deviation, error) if n is not None), default=0.0)
    if abs(margin) <= NOISE_MULTIPLE * noise:
        outcome: Literal["above", "tie", "below"] = "tie"
    else:
        outcome = "above" if margin > 0 else "below"
    return FloorVerdict(floor_name, margin, method.deviation, error, outcome)
