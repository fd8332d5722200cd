"""Margins against the best floor, judged against noise."""

import math

import numpy as np
import pytest

from erel_jax.benchmark.verdict import Spread, judge, spread


def test_spread_equals_numpy():
    values = [0.1, 0.4, 0.25, 0.3]
    found = spread([*values, None])
    assert found is not None and found.deviation is not None
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert found.count == 4
    assert spread([None, None]) is None
    assert spread([0.5]) == Spread(0.5, None, 1)


def test_binomial_error_of_the_difference():
    verdict = judge(Spread(0.5, None, 1), "markov", Spread(0.2, None, 1), 100)
    assert verdict.standard_error == pytest.approx(math.sqrt((0.25 + 0.16) / 100))
    assert verdict.margin == pytest.approx(0.3)
    assert (verdict.outcome, verdict.floor, verdict.seed_deviation) == ("above", "markov", None)


@pytest.mark.parametrize(
    ("quality", "deviation", "queries", "outcome"),
    [
        (0.0837 + 0.0080, None, 12076, "above"),  # 2 standard errors of the difference are .0071
        (0.0837 + 0.0060, None, 12076, "tie"),
        (0.0771, None, 12076, "tie"),
        (0.0700, None, 12076, "below"),
        (0.0837 + 0.0080, 0.0041, 12076, "tie"),  # the seed is noisier than the queries
        (0.0837 + 0.0080, 0.0030, None, "above"),
        (0.0838, None, None, "above"),  # nothing known about the noise: the sign decides
        (0.0837, None, None, "tie"),
        (0.0837 + 0.0001, 0.0, None, "above"),
    ],
)
def test_outcomes(quality, deviation, queries, outcome):
    verdict = judge(Spread(quality, deviation, 3), "tfidf", Spread(0.0837, None, 1), queries)
    assert verdict.outcome == outcome
    known = [n for n in (deviation, verdict.standard_error) if n is not None]
    assert verdict.noise == (max(known) if known else None)


@pytest.mark.parametrize(("queries", "outcome"), [(1, "tie"), (12, "above")])
def test_all_hits_of_few_queries_are_no_certainty(queries, outcome):
    assert judge(Spread(1.0, None, 1), "markov", Spread(0.0, None, 1), queries).outcome == outcome


def test_a_rate_of_zero_or_one_has_an_error():
    verdict = judge(Spread(1.0, None, 1), "markov", Spread(1.0, None, 1), 98)
    assert verdict.standard_error == pytest.approx(math.sqrt(2 * 0.01 * 0.99 / 98))
