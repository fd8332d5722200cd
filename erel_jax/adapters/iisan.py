"""IISAN: intra- and inter-modal side adapted networks (arXiv 2404.02059).

Every modality has its own side tower over the hidden states of its frozen encoder (*intra*), and one more tower reads
both modalities together (*inter*). Each tower ends in an affine head, and one affine map fuses their outputs into the
item vector. Because nothing flows into the encoders, `apply` is fed with stored states; feeding it with the taps of a
running encoder gives the uncached variant with the same parameters.

The released heads are two affine maps in a row, [D, D] then [D, E], with nothing between them: 43 % of the parameters
for a product of two matrices. They train as released (`head="two_affine"`), but the product is formed once per step
whenever that is cheaper than applying both to every item; `collapse_heads` folds it for good.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from erel_jax.adapters.side_heads import Presence, affine_spec, composed, fuse, head_of, known_states
from erel_jax.adapters.side_tower import (
    TowerConfig,
    inter_states,
    intra_states,
    tower_spec,
)
from erel_jax.errors import ConfigError, suggest
from erel_jax.layers import FLOAT32, Precision
from erel_jax.module import Module

PyTree = Any
HEADS = ("two_affine", "collapsed")

IISAN_LEARNING_RATES: tuple[tuple[str, float], ...] = (
    (r"(?:.*/)?blocks/.*", 1e-4),
    (r"(?:.*/)?intra/image/gates", 1e-4),
    (r"(?:.*/)?heads/image/hidden/.*", 1e-4),
    (r"(?:.*/)?heads/text/hidden/.*", 5e-5),
    (r".*", 2e-4),
)
"""The released learning rates as (pattern, rate), first match counts, for modalities named `image` and `text`."""


def iisan(
    taps: Mapping[str, tuple[int, int]],
    *,
    embedding: int = 64,
    bottleneck: int = 64,
    inter: bool = True,
    head: str = "two_affine",
    activation: str = "relu",
    gate_temperature: float = 0.1,
    gate_init: float = 0.0,
    gated: bool = True,
    first_gate_against_zero: bool = True,
    inter_additive: bool = True,
    precision: Precision = FLOAT32,
) -> Module:
    """The side network of an item.

    `apply(params, {modality: float[N, K, D]}, presence=None) -> float32[N, E]`. `presence` is bool[N, M] in the order
    of `taps`, or bool[N] per modality: an absent modality is left out exactly. Its stored states are never read, the
    inter tower takes the other modality with weight 1, and the absent tower adds nothing to the fusion. An item with
    no modality gets the zero vector. With one modality there is no inter tower and no fusion: the head's output is
    the item vector.

    Args:
        taps: per modality (number of taps K, width D). The inter tower gates its first modality by g and its second by
            1 - g; the released order is image, text, and a modality named `image` comes first whatever its position.
        embedding: width E of the item vector.
        bottleneck: inner width R of the side blocks.
        inter: whether two modalities also share an inter tower; they must then be equally wide with equally many taps.
        head: "two_affine" as released, or "collapsed" for one affine map per tower.
        activation, gate_temperature, gate_init, gated, first_gate_against_zero, inter_additive: see `TowerConfig`.
        precision: dtypes of the products; states and sums stay in `accumulate`.

    Raises:
        ConfigError: no modality, an unknown head, or an inter tower that the modalities do not allow.
    """
    config = TowerConfig(
        bottleneck=bottleneck, activation=activation, gated=gated, gate_temperature=gate_temperature,
        gate_init=gate_init, first_gate_against_zero=first_gate_against_zero, inter_additive=inter_additive,
    )  # fmt: skip
    names = tuple(taps)
    if not names:
        raise ConfigError("got no modality, expected at least one.")
    if head not in HEADS:
        raise ConfigError(f"unknown head {head!r}. {suggest(head, HEADS)}")
    joined = _inter_order(taps) if inter and len(names) > 1 else ()

    def apply(
        params: PyTree, states: Mapping[str, jax.Array], presence: Presence | None = None, *, key: Any = None,
        train: bool = False,
    ) -> jax.Array:  # fmt: skip
        read, there = known_states(taps, states, presence)
        vectors = _tower_vectors(params, read, there, joined, config, precision)
        return fuse(params, vectors, there, precision)

    return Module(_spec(taps, config, joined, embedding, head), apply)


def _tower_vectors(
    params: PyTree,
    states: Mapping[str, jax.Array],
    there: Mapping[str, jax.Array] | None,
    joined: tuple[str, ...],
    config: TowerConfig,
    precision: Precision,
) -> dict[str, jax.Array]:
    """Each tower's vector after its head, the inter tower's last."""
    vectors = {}
    for name, own in states.items():
        finish = head_of(params["heads"][name], own.shape[0], precision)
        vectors[name] = finish(partial(intra_states, params["intra"][name], own, config, precision))
    if joined:
        pair = None if there is None else (there[joined[0]], there[joined[1]])
        one, other = (states[name] for name in joined)
        finish = head_of(params["heads"]["inter"], one.shape[0], precision)
        vectors["inter"] = finish(partial(inter_states, params["inter"], one, other, config, precision, pair))
    return vectors


def _spec(
    taps: Mapping[str, tuple[int, int]], config: TowerConfig, joined: tuple[str, ...], embedding: int, head: str
) -> dict[str, Any]:
    widths = {name: width for name, (_, width) in taps.items()}
    spec: dict[str, Any] = {"intra": {name: tower_spec(*shape, config) for name, shape in taps.items()}}
    if joined:
        spec["inter"] = tower_spec(*taps[joined[0]], config)
        widths["inter"] = taps[joined[0]][1]
    spec["heads"] = {name: _head_spec(name, width, embedding, head) for name, width in widths.items()}
    if len(taps) > 1:
        spec["fusion"] = affine_spec(len(widths) * embedding, embedding)
    return spec


def _inter_order(taps: Mapping[str, tuple[int, int]]) -> tuple[str, str]:
    names = sorted(taps, key=lambda name: name != "image")
    if len(names) != 2 or taps[names[0]] != taps[names[1]]:
        raise ConfigError(
            f"an inter tower joins two modalities with equally many taps of equal width, got {dict(taps)}; "
            "pass inter=False, choose encoders of one width, or use versa_cached or crossan_cached."
        )
    return names[0], names[1]


def _head_spec(name: str, width: int, embedding: int, head: str) -> dict[str, Any]:
    output = affine_spec(width, embedding, xavier=name == "image")
    if head == "collapsed":
        return {"output": output}
    return {"hidden": affine_spec(width, width, sharded=True), "output": output}


def collapse_heads(params: PyTree) -> PyTree:
    """Parameters for `head="collapsed"` from trained `head="two_affine"` ones: the same function, 43 % smaller.

    The products are formed in float32. Collapsing is for inference; training the collapsed form from there follows
    another path.
    """
    heads = {}
    for name, part in params["heads"].items():
        kernel, bias = composed(part, FLOAT32)
        heads[name] = {"output": {"kernel": kernel, "bias": bias}}
    return {**params, "heads": heads}
