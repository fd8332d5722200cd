"""What a method costs, in one number or as a front.

Quality alone says little about a method: two methods with the same recall can differ a hundredfold in training time,
memory and trainable parameters. This module turns measured costs into the three summaries the field uses:

* `tpme`: training time, parameters and memory, normalized over the compared methods. Lower is better. It is *relative
  to the compared set*, so every result carries a hash of that set.
* `pscp`: quality discounted by absolute costs. Higher is better, and it does not depend on the other methods.
* `pareto_front` and `hypervolume`: which methods no other method beats on quality and cost at once.

Nothing here measures anything, and nothing needs a device: inputs are plain numbers. A value that could not be
measured is None; it never counts as zero and never enters a minimum or maximum.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from erel_jax.errors import ConfigError

TPME_WEIGHTS = (0.45, 0.10, 0.45)
"""Weights of training time, trainable parameters and peak memory in the IISAN paper."""

TERMS = ("train_seconds", "trainable_parameters", "peak_bytes")


@dataclass(frozen=True)
class CostTriple:
    """The three training costs of one method; None where a cost is unavailable.

    Attributes:
        train_seconds: training time in seconds (per run or per epoch, the same for all compared methods).
        trainable_parameters: number of parameters that receive a gradient.
        peak_bytes: peak training memory in bytes (any unit, as long as all compared methods share it).
    """

    train_seconds: float | None
    trainable_parameters: float | None
    peak_bytes: float | None

    def __post_init__(self):
        for name in TERMS:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"got {name}={value!r}, expected a finite number >= 0; "
                    "give None for a cost that could not be measured"
                )

    def missing(self) -> tuple[str, ...]:
        """Return the names of the unavailable costs."""
        return tuple(name for name in TERMS if getattr(self, name) is None)


@dataclass(frozen=True)
class TpmeScores:
    """TPME of every compared method, with what is needed to know which numbers may be compared.

    Attributes:
        values: one score per input triple, None where one of its costs is unavailable.
        reasons: why a score is None; None where there is a score.
        set_hash: 12 hexadecimal digits over the compared triples and the settings. Scores with different hashes
            must not be compared.
    """

    values: tuple[float | None, ...]
    reasons: tuple[str | None, ...]
    set_hash: str


def tpme(
    triples: Sequence[CostTriple],
    weights: tuple[float, float, float] = TPME_WEIGHTS,
    *,
    scale: Literal["linear", "log"] = "linear",
    anchors: tuple[CostTriple, CostTriple] | None = None,
) -> TpmeScores:
    """Training-time, parameter and memory efficiency of the compared methods: lower is better.

    Each cost x is normalized to `(x - min) / (max - min)` over the compared methods (0 where max = min) and the three
    are summed with `weights`; 0 is best and 1 is worst on all three costs.

    Args:
        triples: one `CostTriple` per compared method. A triple with an unavailable cost gets None and a reason and
            does not enter min and max.
        weights: weights of time, parameters and memory; non-negative, sum 1.
        scale: "linear" is the published definition. "log" compares orders of magnitude, so that one expensive method
            (full fine-tuning) does not squeeze all others towards 0: log of seconds and bytes, log(1 + n) of
            parameters, which may be 0.
        anchors: (cheapest, dearest) triples to normalize by instead of the set's own min and max. Scores then stay
            the same when methods are added, may leave [0, 1], and are comparable across runs with equal anchors.

    Returns:
        A `TpmeScores` in the order of `triples`.

    Raises:
        ConfigError: bad weights or scale, incomplete anchors, or a time or memory of 0 on the log scale.

    Do not compare scores of different sets: adding a method changes every score and can change the order. Training
    alone is covered, neither inference nor index size.

    Reference: IISAN (Fu et al. 2024), equations 6 to 10. Sibling: `pscp` needs no set but mixes quality in.

    >>> costs = [CostTriple(10.0, 100, 5.0), CostTriple(20.0, 50, 9.0)]
    >>> tpme(costs).values
    (0.1, 0.9)
    """
    _check_weights(weights)
    if scale not in ("linear", "log"):
        raise ConfigError(f"got scale={scale!r}, expected 'linear' or 'log'")
    complete = [_scaled(triple, scale) for triple in triples if not triple.missing()]
    lows, highs = _bounds(complete, anchors, scale)
    values: list[float | None] = []
    reasons: list[str | None] = []
    for triple in triples:
        if absent := triple.missing():
            values.append(None)
            reasons.append(f"TPME needs {', '.join(absent)}, which is unavailable")
            continue
        normalized = [
            0.0 if high == low else (cost - low) / (high - low)
            for cost, low, high in zip(_scaled(triple, scale), lows, highs, strict=True)
        ]
        values.append(math.fsum(weight * part for weight, part in zip(weights, normalized, strict=True)))
        reasons.append(None)
    return TpmeScores(tuple(values), tuple(reasons), set_hash(triples, weights, scale=scale, anchors=anchors))


def set_hash(
    triples: Sequence[CostTriple],
    weights: tuple[float, float, float] = TPME_WEIGHTS,
    *,
    scale: str = "linear",
    anchors: tuple[CostTriple, CostTriple] | None = None,
) -> str:
    """Hash the compared set and the settings of `tpme`.

    Args:
        triples: the compared methods; order does not matter, incomplete triples are left out as in `tpme`.
        weights: as in `tpme`.
        scale: as in `tpme`.
        anchors: as in `tpme`.

    Returns:
        The first 12 hexadecimal digits of a SHA-256.
    """
    rows = sorted([float(getattr(triple, name)) for name in TERMS] for triple in triples if not triple.missing())
    bounds = None if anchors is None else [[getattr(anchor, name) for name in TERMS] for anchor in anchors]
    text = json.dumps([rows, list(weights), scale, bounds], allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_weights(weights: tuple[float, float, float]) -> None:
    if len(weights) != 3 or any(weight < 0 for weight in weights) or not math.isclose(math.fsum(weights), 1.0):
        raise ConfigError(
            f"got TPME weights {weights!r}, expected three non-negative numbers (time, parameters, memory) with sum 1"
        )


def _scaled(triple: CostTriple, scale: str) -> tuple[float, float, float]:
    costs = (triple.train_seconds, triple.trainable_parameters, triple.peak_bytes)
    if any(cost is None for cost in costs):
        raise ConfigError(f"got anchor {triple!r}, expected three numbers; give an anchor without unavailable costs")
    seconds, parameters, memory = (float(cost) for cost in costs if cost is not None)
    if scale == "linear":
        return seconds, parameters, memory
    if seconds == 0 or memory == 0:
        raise ConfigError(f"got {triple!r}, expected time and memory above 0 on the log scale; use scale='linear'")
    return math.log(seconds), math.log1p(parameters), math.log(memory)


def _bounds(
    complete: Sequence[tuple[float, float, float]],
    anchors: tuple[CostTriple, CostTriple] | None,
    scale: str,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if anchors is not None:
        low, high = (_scaled(anchor, scale) for anchor in anchors)
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise ConfigError(f"got anchors {anchors!r}, expected (cheapest, dearest) in this order on all three costs")
        return low, high
    if not complete:
        return (0.0,) * 3, (0.0,) * 3
    columns = list(zip(*complete, strict=True))
    return tuple(min(column) for column in columns), tuple(max(column) for column in columns)


@dataclass(frozen=True, kw_only=True)
class PscpConstants:
    """Cost at which a PSCP term halves the score (with exponent 1), and the exponents.

    Attributes:
        parameters: trainable parameters.
        tera_flops: 10^12 floating point operations.
        gigabytes: 10^9 bytes of peak training memory.
        beta_parameters: exponent of the parameter term; 0 leaves the term out.
        beta_flops: exponent of the FLOPs term; 0 leaves the term out.
        beta_memory: exponent of the memory term; 0 leaves the term out.
    """

    parameters: float = 5e8
    tera_flops: float = 10.0
    gigabytes: float = 94.0
    beta_parameters: float = 1.0
    beta_flops: float = 1.0
    beta_memory: float = 1.0

    def __post_init__(self):
        for name in ("parameters", "tera_flops", "gigabytes"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise ConfigError(f"got PSCP constant {name}={value!r}, expected a finite number above 0")
        for name in ("beta_parameters", "beta_flops", "beta_memory"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise ConfigError(f"got PSCP exponent {name}={value!r}, expected a finite number >= 0")


PSCP_CONSTANTS = PscpConstants()


def pscp(
    performance: float | None,
    *,
    parameters: float | None,
    tera_flops: float | None,
    gigabytes: float | None,
    constants: PscpConstants = PSCP_CONSTANTS,
) -> float | None:
    """Discount a quality by absolute costs: `performance * prod (1 + x / C_x) ** -beta_x`; higher is better.

    Args:
        performance: quality in 0..1.
        parameters: trainable parameters.
        tera_flops: 10^12 floating point operations of one example; training and inference counts must not be mixed
            within a comparison. None is allowed where `constants.beta_flops` is 0.
        gigabytes: peak training memory in 10^9 bytes.
        constants: reference costs and exponents.

    Returns:
        A score in 0..`performance`, or None where a needed input is None.

    Raises:
        ConfigError: a performance outside 0..1 or a negative or non-finite cost.

    Compare only scores with equal constants and the same quality metric. The reference constants describe large
    language models on one 94 GB device; for small models every factor is close to 1 and PSCP is close to the quality.

    Reference: PEFT-Bench, arXiv 2511.21285. Sibling: `tpme` compares costs alone, relative to a set.

    >>> round(pscp(0.5, parameters=5e8, tera_flops=None, gigabytes=0, constants=PscpConstants(beta_flops=0)), 3)
    0.25
    """
    if performance is None:
        return None
    if not 0 <= performance <= 1:
        raise ConfigError(f"got performance={performance!r}, expected a quality in 0..1")
    factors = [float(performance)]
    for name, cost, constant, beta in (
        ("parameters", parameters, constants.parameters, constants.beta_parameters),
        ("tera_flops", tera_flops, constants.tera_flops, constants.beta_flops),
        ("gigabytes", gigabytes, constants.gigabytes, constants.beta_memory),
    ):
        if beta == 0:
            continue
        if cost is None:
            return None
        if not (math.isfinite(cost) and cost >= 0):
            raise ConfigError(f"got {name}={cost!r}, expected a finite number >= 0")
        factors.append((1.0 + cost / constant) ** -beta)
    return math.prod(factors)


def pareto_front(
    quality: Sequence[float | None],
    cost: Sequence[float | None],
    *,
    maximize_quality: bool = True,
    minimize_cost: bool = True,
) -> tuple[bool, ...]:
    """Mark the methods that no other method dominates.

    A method is dominated if another one is at least as good on both axes and better on one. Methods with the same
    quality and cost do not dominate each other: both stay on the front.

    Args:
        quality: one value per method; None where unavailable.
        cost: one value per method; None where unavailable. Methods with an unavailable value are never on the front
            and dominate nothing.
        maximize_quality: False where lower quality values are better (a loss).
        minimize_cost: False where higher cost values are better (a throughput).

    Returns:
        One bool per method, in input order.

    Raises:
        ConfigError: different lengths or a non-finite value.

    >>> pareto_front([0.5, 0.7, 0.6], [1.0, 2.0, 3.0])
    (True, True, False)
    """
    points = _oriented(quality, cost, maximize_quality, minimize_cost)
    order = sorted((index for index, point in enumerate(points) if point is not None), key=lambda i: points[i] or ())
    front = [False] * len(points)
    best_quality, best_cost = -math.inf, math.inf
    for index in order:
        point = points[index]
        if point is None:
            continue
        point_cost, point_quality = point[0], -point[1]
        if point_quality > best_quality or (point_quality == best_quality and point_cost == best_cost):
            front[index] = True
            best_quality, best_cost = point_quality, point_cost
    return tuple(front)


def hypervolume(
    quality: Sequence[float | None],
    cost: Sequence[float | None],
    *,
    reference_cost: float,
    reference_quality: float = 0.0,
) -> float:
    """Area between the Pareto front and a reference point: higher is better.

    Args:
        quality: one value per method, higher is better; None where unavailable.
        cost: one value per method, lower is better; None where unavailable. Pass logarithms for a log axis.
        reference_cost: cost of the reference point; methods that cost more add nothing.
        reference_quality: quality of the reference point; methods below it add nothing.

    Returns:
        The dominated area in units of quality times cost, 0.0 for no methods.

    Raises:
        ConfigError: different lengths or a non-finite value.

    Compare only areas with the same reference point and the same units.

    >>> hypervolume([0.5, 1.0], [1.0, 3.0], reference_cost=4.0)
    2.0
    """
    if not (math.isfinite(reference_cost) and math.isfinite(reference_quality)):
        raise ConfigError(f"got reference point ({reference_cost!r}, {reference_quality!r}), expected finite numbers")
    front = pareto_front(quality, cost)
    corners = sorted(
        {
            (c, q)
            for c, q, kept in zip(cost, quality, front, strict=True)
            if kept and c is not None and q is not None and c < reference_cost and q > reference_quality
        }
    )
    if not corners:
        return 0.0
    ends = [corner[0] for corner in corners[1:]] + [reference_cost]
    return math.fsum((end - c) * (q - reference_quality) for (c, q), end in zip(corners, ends, strict=True))


def _oriented(
    quality: Sequence[float | None], cost: Sequence[float | None], maximize_quality: bool, minimize_cost: bool
) -> list[tuple[float, float] | None]:
    """Points as (cost, -quality), both lower is better, so that sorting puts the cheapest and best first."""
    if len(quality) != len(cost):
        raise ConfigError(f"got {len(quality)} qualities and {len(cost)} costs, expected one of each per method")
    points: list[tuple[float, float] | None] = []
    for index, (q, c) in enumerate(zip(quality, cost, strict=True)):
        if q is None or c is None:
            points.append(None)
            continue
        if not (math.isfinite(q) and math.isfinite(c)):
            raise ConfigError(f"got quality {q!r} and cost {c!r} at position {index}, expected finite numbers or None")
        points.append((c if minimize_cost else -c, -q if maximize_quality else q))
    return points
