"""Encoders that stop early: exits at chosen layers, a loss that trains them, and a rule for when to take one.

An exit is the encoder's own first layers under its own pooling and final norm, so it has no parameters of its own. A
pretrained tower's shallow exits are poor; `depth_loss` trains all of them at once (Matryoshka over depth).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.compression.merged_tokens import rebuilt
from erel_jax.encoders import Encoder
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision

PyTree = Any


def at_depth(encoder: Encoder, layers: int, precision: Precision = FLOAT32) -> Encoder:
    """The encoder of the first layers, with the pooling and final norm of the whole one.

    Args:
        encoder: an encoder of a registered family.
        layers: layers to keep, from 1 to all.
        precision: dtypes of the new encoder.

    Raises:
        ConfigError: the encoder has not so many layers.
    """
    if layers not in range(1, encoder.layers + 1):
        raise ConfigError(f"got {layers} layers, expected 1 to {encoder.layers}.")
    return rebuilt(encoder, precision, layers=layers)


def first_layers(params: PyTree, layers: int) -> PyTree:
    """Parameters (arrays, not specs) for `at_depth(encoder, layers)`: views of the first layers of the stack."""
    stack = params["layers"]
    cut = stack[:layers] if isinstance(stack, list | tuple) else jax.tree.map(lambda leaf: leaf[:layers], stack)
    return {**params, "layers": cut}


def depth_loss(
    loss: Callable[[jax.Array], jax.Array],
    exits: Mapping[int, jax.Array],
    *,
    exit_weight: float = 1.0,
    match_weight: float = 1.0,
    temperature: float = 0.3,
) -> jax.Array:
    """The loss of the deepest exit, and the mean over the shallower ones of theirs and of their distance from it.

    Args:
        loss: `loss(embeddings float[B, E])`, the training loss of one exit.
        exits: embeddings float[B, E] by number of layers, of the full depth and of one or more shallower exits
            (`at_depth`). One exit drawn anew in each step costs less than all and trains all in time.
        exit_weight: factor of the shallow exits' losses.
        match_weight: factor of `T · KL(softmax(deepest / T) ‖ softmax(exit / T))` over the E numbers of each unit
            embedding, in the mean over rows; no gradient goes into the deepest.
        temperature: T.

    Returns:
        float32[].

    Raises:
        ConfigError: fewer than two exits, exits of different shapes, or a temperature that is not above 0.

    Reference: the adaptive-layer loss of sentence-transformers, with one weight for all exits.
    """
    if len(exits) < 2 or temperature <= 0:
        raise ConfigError(f"got exits {sorted(exits)} at temperature {temperature}, expected two or more above 0.")
    shapes = {embedding.shape for embedding in exits.values()}
    if len(shapes) > 1:
        raise ConfigError(f"got exits of shapes {sorted(shapes)}, expected one shape.")
    deepest = max(exits)
    logits = {depth: _unit(embedding) / temperature for depth, embedding in exits.items()}
    wanted = jax.nn.log_softmax(jax.lax.stop_gradient(logits[deepest]), axis=-1)
    shallow = []
    for depth in sorted(set(exits) - {deepest}):
        gap = wanted - jax.nn.log_softmax(logits[depth], axis=-1)
        distance = temperature * jnp.mean(jnp.sum(jnp.exp(wanted) * gap, axis=-1))
        shallow.append(exit_weight * loss(exits[depth]) + match_weight * distance)
    return loss(exits[deepest]) + sum(shallow[1:], shallow[0]) / len(shallow)


def _unit(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.sum(wide * wide, axis=-1, keepdims=True) + 1e-12)


@dataclass(frozen=True, kw_only=True)
class ExitRule:
    """When a query's cheap answer is taken.

    Attributes:
        margin: take it where the best score is more than this above the second best.
        taken: share of the calibration queries for which it is.
        agreement: share of the calibration queries that end with the costly answer (all that go on do).
    """

    margin: float
    taken: float
    agreement: float

    def takes(self, scores: np.ndarray) -> np.ndarray:
        """Whether each row of cheap scores float[Q, N] is answered: bool[Q]."""
        return _margins(np.asarray(scores)) > self.margin


def calibrated_exit(cheap: np.ndarray, costly: np.ndarray, *, agreement: float = 0.99) -> ExitRule:
    """The smallest margin at which enough queries still get the answer of the costly scores.

    The scores may be those of a shallow and a deep exit, of short and long embeddings, or of a cheap and a costly
    modality.

    Args:
        cheap, costly: float[Q, N], scores of calibration queries against the same N items, higher is better; the item
            of the highest one (the first of equals) is a query's answer.
        agreement: least share of queries that must end with the costly answer.

    Returns:
        `ExitRule`; a margin of infinity never takes the cheap answer.

    Raises:
        ConfigError: shapes differ or are too small, scores are not finite, or the share is outside (0, 1].
    """
    cheap, costly = np.asarray(cheap, np.float64), np.asarray(costly, np.float64)
    if cheap.shape != costly.shape or cheap.ndim != 2 or not cheap.shape[0] or cheap.shape[1] < 2:
        raise ConfigError(
            f"got scores {cheap.shape} and {costly.shape}, expected two equal [Q, N] with N of 2 or more."
        )
    if not 0 < agreement <= 1 or not (np.isfinite(cheap).all() and np.isfinite(costly).all()):
        raise ConfigError(f"got agreement={agreement}, expected finite scores and a share above 0 and up to 1.")
    margins, wrong = _margins(cheap), cheap.argmax(1) != costly.argmax(1)
    for margin in sorted({0.0, *margins.tolist()}):
        agreed = 1.0 - float((wrong & (margins > margin)).mean())
        if agreed >= agreement:
            return ExitRule(margin=margin, taken=float((margins > margin).mean()), agreement=agreed)
    return ExitRule(margin=float("inf"), taken=0.0, agreement=1.0)


def _margins(scores: np.ndarray) -> np.ndarray:
    best = np.partition(scores, -2, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def exits_of(encoder: Encoder, depths: Sequence[int], precision: Precision = FLOAT32) -> dict[int, Callable]:
    """`encode(params of the whole encoder, inputs) -> embedding` for each depth, for `depth_loss`."""

    def exit_at(layers: int) -> Callable[[PyTree, PyTree], jax.Array]:
        shallow = at_depth(encoder, layers, precision)
        return lambda params, inputs: shallow.module.apply(first_layers(params, layers), inputs).embedding

    return {layers: exit_at(layers) for layers in depths}
