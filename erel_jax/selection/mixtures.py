"""Two-component mixtures over losses: which pairs does a model find easy, and which look mismatched?

Early in training a network fits pairs that belong together before it memorizes those that do not, so the losses of a
noisy data set fall into a low and a high heap. A mixture of two Gaussian or two Beta distributions finds them; the
posterior of the low heap is the probability that a pair is clean.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.errors import ConfigError, DataError
from erel_jax.selection.scores import check_finite_rows

Kind = Literal["gaussian", "beta"]
EDGE = 1e-3
"""Distance that values of a Beta mixture keep from 0 and 1, where its density may be infinite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """A fitted mixture over values in 0..1, the component with the lower mean first.

    Attributes:
        kind: "gaussian" or "beta".
        weights: float64[2], shares of the components.
        parameters: float64[2, 2], a row per component: mean and variance, or alpha and beta.
        log_likelihood: mean log-likelihood of a value.
        iterations: EM steps taken.
    """

    kind: Kind
    weights: np.ndarray
    parameters: np.ndarray
    log_likelihood: float
    iterations: int

    @property
    def means(self) -> np.ndarray:
        """float64[2], means of the components."""
        first, second = self.parameters.T
        return first if self.kind == "gaussian" else first / (first + second)


def fit_mixture(
    values: np.ndarray | jax.Array,
    kind: Kind = "gaussian",
    *,
    max_iterations: int = 200,
    tolerance: float = 1e-6,
    least_variance: float = 5e-4,
) -> Mixture:
    """Fits two components by expectation maximization.

    Args:
        values: float[N] in 0..1.
        kind: distribution of a component. Beta components follow losses that pile up at an end.
        max_iterations: most EM steps.
        tolerance: stop when the mean log-likelihood gains less.
        least_variance: added to the variance of a Gaussian component, so that none shrinks to a point.

    Returns:
        The mixture.

    Raises:
        ConfigError: the kind is unknown, or values are not [N] within 0..1.
        DataError: there are fewer than 4 values, or all are equal.
        NonFiniteError: values are NaN or infinite; names the first rows.

    Numerics: float32 on the device. The components begin at the 10th and 90th percentile. Beta parameters come from
    weighted moments, not from maximum likelihood, so the likelihood may fall by a little; the step that gains less than
    the tolerance is the last.

    Reference: NCR (Huang et al. 2021) for the Gaussian, Arazo et al. 2019 for the Beta mixture.
    """
    array = _checked(np.asarray(values, np.float32))
    if kind not in ("gaussian", "beta"):
        raise ConfigError(f"kind is {kind!r}, expected 'gaussian' or 'beta'.")
    if max_iterations < 1 or not tolerance >= 0 or not least_variance > 0:
        raise ConfigError(
            f"got max_iterations={max_iterations}, tolerance={tolerance}, least_variance={least_variance}; expected at "
            "least 1, 0 or more, and above 0."
        )
    fit = _fit_beta if kind == "beta" else _fit_gaussian
    start = _start(array, kind)
    limits = np.array([tolerance, least_variance], np.float32)
    weights, moments, likelihood, steps = jax.device_get(fit(array, start, limits, max_iterations))
    order = np.argsort(moments[:, 0], kind="stable")
    parameters = moments if kind == "gaussian" else np.asarray(_beta_parameters(moments))
    return Mixture(
        kind=kind,
        weights=weights[order].astype(np.float64),
        parameters=parameters[order].astype(np.float64),
        log_likelihood=float(likelihood),
        iterations=int(steps),
    )


def low_posterior(mixture: Mixture, values: np.ndarray | jax.Array) -> np.ndarray:
    """Probability that each value belongs to the component with the lower mean.

    Args:
        mixture: from `fit_mixture`.
        values: float[N] in 0..1.

    Returns:
        float32[N], never rising with the value. A plain posterior can rise again where the wider component takes over
        at an end; there the posterior at that component's mean is taken.
    """
    array = np.asarray(values, np.float64)
    inside = np.clip(array, *mixture.means).astype(np.float32)
    weights, parameters = mixture.weights.astype(np.float32), mixture.parameters.astype(np.float32)
    density = _beta_log_density if mixture.kind == "beta" else _gaussian_log_density
    logs = np.asarray(density(jnp.asarray(inside), jnp.asarray(parameters)) + np.log(weights)[:, None])
    posterior = 1 / (1 + np.exp(np.clip(logs[1] - logs[0], -80, 80)))
    order = np.argsort(array, kind="stable")
    posterior[order] = np.minimum.accumulate(posterior[order])
    return posterior.astype(np.float32)


def unit_interval(losses: np.ndarray | jax.Array) -> np.ndarray:
    """float32[N] losses, shifted and scaled to 0..1; NonFiniteError names rows that are NaN or infinite.

    Raises:
        ConfigError: losses are not [N].
        DataError: all are equal, so nothing tells clean from mismatched.
    """
    array = np.asarray(losses, np.float64)
    if array.ndim != 1 or not len(array):
        raise ConfigError(f"losses have shape {list(array.shape)}, expected [N] with at least one row.")
    check_finite_rows("losses", array)
    low, high = array.min(), array.max()
    if low == high:
        raise DataError(f"all {len(array)} losses are {low}, so nothing tells clean pairs from mismatched ones.")
    return ((array - low) / (high - low)).astype(np.float32)


def _checked(array: np.ndarray) -> np.ndarray:
    """The values, where two components can be fitted to them."""
    if array.ndim != 1:
        raise ConfigError(f"values have shape {list(array.shape)}, expected [N].")
    check_finite_rows("values", array)
    if len(array) < 4 or array.min() == array.max():
        raise DataError(
            f"got {len(array)} values, {len(np.unique(array))} of them different; two components need at least 4 "
            "values that are not all equal."
        )
    if array.min() < 0 or array.max() > 1:
        raise ConfigError(f"values lie in {array.min()}..{array.max()}, expected 0..1; use `unit_interval` first.")
    return array


def _start(array: np.ndarray, kind: Kind) -> np.ndarray:
    """float32[2, 2], means and variances that the components begin with."""
    ends = np.quantile(array if kind == "gaussian" else np.clip(array, EDGE, 1 - EDGE), [0.1, 0.9])
    means = np.array([ends[0], max(ends[1], ends[0] + 0.01)])
    means[1] = min(means[1], 1.0 if kind == "gaussian" else 1 - EDGE)
    variances = np.full(2, array.var() / 4 + 1e-3)
    if kind == "beta":
        # Wider than this it has two heaps, one at each end, and both components would follow both.
        variances = np.minimum(variances, means * (1 - means) / 2)
    return np.stack([means, variances], axis=1).astype(np.float32)


def _gaussian_log_density(values: jax.Array, parameters: jax.Array) -> jax.Array:
    """float32[2, N] log densities; `parameters` [2, 2] are means and variances."""
    mean, variance = parameters[:, 0][:, None], parameters[:, 1][:, None]
    return -0.5 * ((values[None, :] - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))


def _beta_log_density(values: jax.Array, parameters: jax.Array) -> jax.Array:
    """float32[2, N] log densities; `parameters` [2, 2] are alpha and beta."""
    alpha, beta = parameters[:, 0][:, None], parameters[:, 1][:, None]
    inside = jnp.clip(values, EDGE, 1 - EDGE)[None, :]
    norm = jax.scipy.special.betaln(alpha, beta)
    return (alpha - 1) * jnp.log(inside) + (beta - 1) * jnp.log1p(-inside) - norm


def _beta_parameters(moments: jax.Array | np.ndarray) -> jax.Array:
    """float32[2, 2] alpha and beta of given means and variances."""
    mean, variance = jnp.asarray(moments)[:, 0], jnp.asarray(moments)[:, 1]
    # A variance of mean (1 - mean) would need alpha = beta = 0.
    strength = jnp.maximum(mean * (1 - mean) / variance - 1, 0.05)
    return jnp.stack([mean * strength, (1 - mean) * strength], axis=1)


def _expectation_maximization(
    values: jax.Array, start: jax.Array, limits: jax.Array, max_iterations: jax.Array, *, beta: bool
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(weights [2], means and variances [2, 2], mean log-likelihood, steps)."""
    tolerance, least_variance = limits
    values = jnp.clip(values, EDGE, 1 - EDGE) if beta else values

    def logs(weights: jax.Array, moments: jax.Array) -> jax.Array:
        density = (
            _beta_log_density(values, _beta_parameters(moments)) if beta else _gaussian_log_density(values, moments)
        )
        return density + jnp.log(weights)[:, None]

    def step(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        weights, moments, _, now, steps = state
        posterior = jax.nn.softmax(logs(weights, moments), axis=0)
        mass = jnp.maximum(jnp.mean(posterior, axis=1), 1e-6)
        mean = jnp.mean(posterior * values[None, :], axis=1) / mass
        spread = jnp.mean(posterior * (values[None, :] - mean[:, None]) ** 2, axis=1) / mass
        moments = jnp.stack([mean, spread + (1e-5 if beta else least_variance)], axis=1)
        weights = mass / jnp.sum(mass)
        return weights, moments, now, likelihood(weights, moments), steps + 1

    def likelihood(weights: jax.Array, moments: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.logsumexp(logs(weights, moments), axis=0))

    def goes_on(state: tuple[jax.Array, ...]) -> jax.Array:
        _, _, before, now, steps = state
        return (steps < max_iterations) & ((steps < 2) | (now - before > tolerance))

    halves = jnp.full(2, 0.5, jnp.float32)
    first = likelihood(halves, start)
    state = (halves, start, first, first, jnp.zeros((), jnp.int32))
    weights, moments, _, final, steps = jax.lax.while_loop(goes_on, step, state)
    return weights, moments, final, steps


@jax.jit
def _fit_gaussian(values: jax.Array, start: jax.Array, limits: jax.Array, most: int) -> tuple[jax.Array, ...]:
    return _expectation_maximization(values, start, limits, jnp.asarray(most, jnp.int32), beta=False)


@jax.jit
def _fit_beta(values: jax.Array, start: jax.Array, limits: jax.Array, most: int) -> tuple[jax.Array, ...]:
    return _expectation_maximization(values, start, limits, jnp.asarray(most, jnp.int32), beta=True)
