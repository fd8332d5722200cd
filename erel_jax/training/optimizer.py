"""The optimizer of every adaptation method: Adam on the trainable tree, with a learning rate per parameter pattern.

The trees it sees are the first half of `tree.partition`, with None where a parameter is frozen, so moments exist for
trained parameters alone. What is built is an `optax.GradientTransformation`; any other one of optax works in
`training.train_step` too.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from erel_jax import tree
from erel_jax.errors import ConfigError

Schedule = Literal["constant", "cosine"]
LearningRate = float | Sequence[tuple[str, float]]

NO_DECAY = (r".*bias", r".*scale")


def adam(
    learning_rate: LearningRate,
    *,
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = NO_DECAY,
    clip_norm: float | None = None,
    warmup_steps: int = 0,
    schedule: Schedule = "constant",
    total_steps: int | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, global-norm clipping, warm-up and a schedule.

    Args:
        learning_rate: one peak rate, or `(pattern, rate)` pairs; a pattern is a regular expression over whole paths,
            and the first that matches a parameter gives its rate.
        weight_decay: factor λ of decoupled decay (AdamW): `p -= rate · λ · p`.
        no_decay: patterns of parameters that are not decayed (those that match nothing are fine).
        clip_norm: scale all gradients down together when their global norm exceeds this; None leaves them.
        warmup_steps: steps over which the rate rises linearly; the first step already has `1/warmup_steps` of it.
        schedule: "constant", or "cosine" from the peak to zero at `total_steps`.
        total_steps: optimizer steps of the whole run; needed by "cosine".
        b1, b2, eps: Adam's moment decays and the epsilon outside the square root.

    Returns:
        An optax transformation. Steps that `train_step` skips do not advance its schedule.

    Raises:
        ConfigError: a value out of range; at `init`, a pattern that matches no parameter or a parameter that no
            pattern matches.

    Numerics:
        Moments have the parameters' dtype; keep trained parameters in float32.

    Reference:
        Kingma and Ba 2015; Loshchilov and Hutter 2019.
    """
    rates = [(".*", learning_rate)] if isinstance(learning_rate, int | float) else list(learning_rate)
    _check(rates, weight_decay, clip_norm, warmup_steps, schedule, total_steps)
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    parts.append(optax.scale_by_adam(b1=b1, b2=b2, eps=eps))
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=lambda params: _decayed(params, no_decay)))
    parts.append(_scale_by_path(rates))
    if warmup_steps or schedule != "constant":
        parts.append(optax.scale_by_schedule(multiplier(warmup_steps, schedule, total_steps)))
    return relaxed(optax.chain(*parts))


def multiplier(
    warmup_steps: int = 0, schedule: Schedule = "constant", total_steps: int | None = None
) -> Callable[[Any], jax.Array]:
    """The factor on the peak learning rate as a function of finished optimizer steps.

    Args:
        warmup_steps: see `adam`.
        schedule: see `adam`.
        total_steps: see `adam`.

    Returns:
        `factor(count: int32[]) -> float32[]` in [0, 1].
    """

    def factor(count: Any) -> jax.Array:
        done = jnp.asarray(count).astype(jnp.float32)
        rise = jnp.minimum(1.0, (done + 1.0) / warmup_steps) if warmup_steps else jnp.ones((), jnp.float32)
        if schedule == "constant" or total_steps is None:
            return rise
        part = jnp.clip((done - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        return rise * 0.5 * (1.0 + jnp.cos(math.pi * part))

    return factor


def rates_by_path(params: Any, rates: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The learning rate of every parameter.

    Args:
        params: the trainable tree (None holes are not parameters).
        rates: `(pattern, rate)` pairs, first match wins.

    Returns:
        path → rate, in tree order.

    Raises:
        ConfigError: a pattern matches no parameter, or a parameter is matched by no pattern.
    """
    names = list(tree.paths(params))
    found: dict[str, float] = {}
    for pattern, rate in rates:
        # A pattern whose parameters are all taken by earlier ones is legal: it still has to match something.
        for name in tree.select(names, [pattern]):
            found.setdefault(name, rate)
    left = [name for name in names if name not in found]
    if left:
        raise ConfigError(
            f"no learning rate pattern matches {len(left)} trainable parameters: {', '.join(left[:10])}. "
            f"Patterns: {', '.join(repr(pattern) for pattern, _ in rates)}. Add a last pair ('.*', rate)."
        )
    return {name: found[name] for name in names}


def relaxed(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer under JAX's standard promotion, because optax mixes int32 counts with floats.

    Args:
        optimizer: any optax transformation.

    Returns:
        The same transformation, usable where `jax_numpy_dtype_promotion` is "strict".
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _scale_by_path(rates: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    def start(params: Any) -> optax.EmptyState:
        rates_by_path(params, rates)
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        table = rates_by_path(updates, rates)
        return tree.map_with_path(lambda path, u: -table[path] * u, updates), state

    return optax.GradientTransformation(start, update)


def _decayed(params: Any, no_decay: Sequence[str]) -> Any:
    return tree.map_with_path(lambda path, _: not any(re.fullmatch(pattern, path) for pattern in no_decay), params)


def _check(
    rates: Sequence[tuple[str, float]],
    weight_decay: float,
    clip_norm: float | None,
    warmup_steps: int,
    schedule: str,
    total_steps: int | None,
) -> None:
    if not rates:
        raise ConfigError("got no learning rate; give a number or at least one (pattern, rate) pair.")
    for pattern, rate in rates:
        if not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"got learning rate {rate} for {pattern!r}, expected a number above 0; freeze instead.")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ConfigError(f"got weight_decay {weight_decay}, expected a number of at least 0.")
    if clip_norm is not None and not clip_norm > 0:
        raise ConfigError(f"got clip_norm {clip_norm}, expected a number above 0 or None.")
    if warmup_steps < 0:
        raise ConfigError(f"got warmup_steps {warmup_steps}, expected at least 0.")
    if schedule not in ("constant", "cosine"):
        raise ConfigError(f"got schedule {schedule!r}, expected 'constant' or 'cosine'.")
    if schedule == "cosine" and (total_steps is None or total_steps <= warmup_steps):
        raise ConfigError(
            f"schedule 'cosine' got total_steps={total_steps} and warmup_steps={warmup_steps}; "
            "expected total_steps above warmup_steps."
        )
