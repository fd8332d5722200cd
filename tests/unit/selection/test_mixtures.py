"""Mixtures against a NumPy loop and injected noise."""

import math

import numpy as np
import pytest

from erel_jax.errors import ConfigError, DataError, NonFiniteError
from erel_jax.selection import fit_mixture, low_posterior, unit_interval


def auroc(clean_scores, noisy_scores):
    """Share of (clean, noisy) pairs in which the clean one scores higher; ties count half."""
    difference = clean_scores[:, None] - noisy_scores[None, :]
    return np.mean(difference > 0) + 0.5 * np.mean(difference == 0)


@pytest.fixture
def heaps():
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(0.25, 0.08, 700), draw.normal(0.7, 0.1, 300)])
    return np.clip(values, 0, 1).astype(np.float32)


def _loop(values, densities, moments, extra, steps=200):
    """Expectation maximization in float64; returns weights, moments and the posterior of each component."""
    weights = np.full(2, 0.5)
    for _ in range(steps):
        density = weights[:, None] * densities(values[None], moments[:, :1], moments[:, 1:])
        posterior = density / density.sum(0)
        weights = posterior.mean(1)
        means = posterior @ values / posterior.sum(1)
        variances = (posterior * (values - means[:, None]) ** 2).sum(1) / posterior.sum(1)
        moments = np.stack([means, variances + extra], axis=1)
    return weights, moments, posterior


def test_gaussian_equals_a_numpy_loop(heaps):
    def normal(x, mean, variance):
        return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    start = np.array([[0.1, 0.02], [0.9, 0.02]])
    weights, moments, posterior = _loop(heaps.astype(np.float64), normal, start, 5e-4)
    ours = fit_mixture(heaps, tolerance=1e-8, max_iterations=1000)
    np.testing.assert_allclose(ours.weights, weights, atol=2e-3)
    np.testing.assert_allclose(ours.parameters, moments, atol=2e-3)
    np.testing.assert_allclose(ours.weights, [0.7, 0.3], atol=0.03)
    between = (heaps > ours.means[0]) & (heaps < ours.means[1])
    np.testing.assert_allclose(low_posterior(ours, heaps)[between], posterior[0][between], atol=2e-2)


def test_beta_equals_a_numpy_loop():
    draw = np.random.default_rng(1)
    values = np.concatenate([draw.beta(2, 8, 600), draw.beta(9, 3, 400)]).clip(1e-3, 1 - 1e-3)

    def shapes(mean, variance):
        strength = mean * (1 - mean) / variance - 1
        return mean * strength, (1 - mean) * strength

    def beta(x, mean, variance):
        a, b = shapes(mean, variance)
        norm = [math.lgamma(i + j) - math.lgamma(i) - math.lgamma(j) for i, j in zip(a[:, 0], b[:, 0], strict=True)]
        return np.exp(np.array(norm)[:, None] + (a - 1) * np.log(x) + (b - 1) * np.log1p(-x))

    weights, moments, _ = _loop(values, beta, np.array([[0.2, 0.02], [0.8, 0.02]]), 1e-5)
    ours = fit_mixture(values, "beta", tolerance=0.0)
    np.testing.assert_allclose(ours.weights, weights, atol=0.01)
    np.testing.assert_allclose(ours.means, moments[:, 0], atol=0.01)
    np.testing.assert_allclose(ours.parameters, np.stack(shapes(*moments.T), axis=1), rtol=0.05)


@pytest.mark.parametrize("kind", ["gaussian", "beta"])
@pytest.mark.parametrize("share", [0.2, 0.4, 0.5])
def test_posterior_tells_the_heaps_apart(kind, share):
    draw = np.random.default_rng(2)
    noisy = draw.random(1000) < share
    losses = np.where(noisy, draw.normal(6, 1.2, 1000), draw.gamma(2, 0.7, 1000))
    values = unit_interval(losses)
    mixture = fit_mixture(values, kind)
    posterior = low_posterior(mixture, values)
    assert auroc(posterior[~noisy], posterior[noisy]) >= 0.95
    assert np.mean((posterior <= 0.5) == noisy) >= 0.9
    assert abs(mixture.weights[1] - share) < 0.12
    assert (np.diff(posterior[np.argsort(values)]) <= 0).all()


def test_a_wide_component_does_not_take_over_the_other_end():
    values = np.concatenate([np.random.default_rng(0).normal(0.5, 0.02, 500), np.linspace(0.51, 1, 300), [0.0, 0.1]])
    posterior = low_posterior(fit_mixture(values), values)
    assert posterior[-2:].min() == posterior.max()


def test_bad_input():
    with pytest.raises(DataError, match="not all equal"):
        fit_mixture(np.full(10, 0.5))
    with pytest.raises(DataError, match="all 3 losses are 2"):
        unit_interval(np.full(3, 2.0))
    with pytest.raises(NonFiniteError, match=r"losses: 1 of 3 .* first rows \[1\]"):
        unit_interval(np.array([0.0, np.nan, 1.0]))
    with pytest.raises(ConfigError, match=r"expected 0\.\.1"):
        fit_mixture(np.arange(5.0))
    with pytest.raises(ConfigError, match="kind is 'gamma'"):
        fit_mixture(np.linspace(0, 1, 5), "gamma")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="max_iterations=0"):
        fit_mixture(np.linspace(0, 1, 5), max_iterations=0)
    with pytest.raises(ConfigError, match=r"losses have shape \[2, 2\]"):
        unit_interval(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("low", "high"),
    [([0.0] * 50, [1.0] * 50), ([0.0] * 50, np.linspace(0.3, 1, 20)), (np.linspace(0, 0.7, 20), [1.0] * 50)],
)
def test_beta_heaps_of_equal_values_at_an_end_are_told_apart(low, high):
    values = np.concatenate([low, high]).astype(np.float32)
    posterior = low_posterior(fit_mixture(values, "beta"), values)
    np.testing.assert_array_equal(posterior > 0.5, np.arange(len(values)) < len(low))
