"""CROSSAN: cross-modal side adapted networks for any number of modalities. Experimental.

Every modality has one side tower, and the towers look at each other: at each step a tower reads its own tap, its own
state and, through scalar gates, the other modalities' taps. There is no separate tower over all of them.

    c^m_k = SANB^m_k(g^m_k h^m_k + (1 - g^m_k) c^m_{k-1} + Σ_{n≠m} a^{mn}_k T^n h^n_k)

A tower reads the others' taps and never their states, so each climbs by itself. It ends in one affine map to the item
width, and the modalities are fused by a mixture of experts (`modality_experts`) or by one affine map of all of them
side by side. With cross terms off and one modality this is a plain side tower.

The public description leaves details open; this reconstruction (arXiv 2504.10307, no published code) fixes them, and
its parameters may change.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.adapters.dimension_transform import check_transform, transform_spec, transformed
from erel_jax.adapters.modality_experts import modality_experts, modality_experts_spec
from erel_jax.adapters.side_heads import Presence, affine_spec, fuse, head_of, known_states
from erel_jax.adapters.side_tower import (
    Affine,
    Mixture,
    TowerConfig,
    climb,
    gate_values,
    gated,
    split_taps,
    tower_spec,
    weighted_sum,
)
from erel_jax.errors import ConfigError, suggest
from erel_jax.layers import FLOAT32, Precision
from erel_jax.module import Module, ParamSpec

PyTree = Any
Shapes = Mapping[str, tuple[int, int]]

FUSIONS = ("experts", "concat")


def crossan(
    taps: Shapes,
    *,
    embedding: int = 64,
    cross: bool = True,
    fusion: str = "experts",
    transform: str = "shared",
    transform_rank: int = 64,
    config: TowerConfig | None = None,
    precision: Precision = FLOAT32,
) -> Module:
    """The side network of an item with any number of modalities M ≥ 1.

    `apply(params, {modality: float[N, K, D]}, presence=None) -> float32[N, E]`; `presence` is bool[N, M] in the order
    of `taps`, or bool[N] per modality. Of an absent modality nothing is read, by its own tower or by another's cross
    term; its expert has no weight. An item with no modality gets the zero vector.

    Args:
        taps: per modality (number of taps K, width D). Where K differs, the last taps meet.
        embedding: width E of the item vector.
        cross: whether towers read the other modalities' taps.
        fusion: "experts", or "concat" for one affine map of all modalities' vectors.
        transform: how another modality's taps reach a tower of another width: "full", "low_rank" or "shared" over
            the steps; one map per receiving and sending modality. See `dimension_transform`.
        transform_rank: rank of "low_rank".
        config: bottleneck, gates and activation, see `TowerConfig`.
        precision: dtypes of the products; states and sums stay in `accumulate`.

    Raises:
        ConfigError: no modality, or an unknown fusion or transform.
    """
    names, config = tuple(taps), config or TowerConfig()
    if not names:
        raise ConfigError("got no modality, expected at least one.")
    if fusion not in FUSIONS:
        raise ConfigError(f"unknown fusion {fusion!r}. {suggest(fusion, FUSIONS)}")
    check_transform(transform, transform_rank)
    cross = cross and len(names) > 1
    spec = _spec(taps, cross, fusion, config, embedding, (transform, transform_rank))

    def apply(
        params: PyTree, states: Mapping[str, jax.Array], presence: Presence | None = None, *, key: Any = None,
        train: bool = False,
    ) -> jax.Array:  # fmt: skip
        read, there = known_states(taps, states, presence)
        split = {name: split_taps(array, precision) for name, array in read.items()}
        vectors = {}
        for name in names:

            def tower(output: Affine | None, name: str = name) -> jax.Array:
                mixtures = _mixtures(params, name, split, there, cross, config, precision)
                return climb(params["towers"][name], mixtures, config, precision, output)

            vectors[name] = head_of(params["heads"][name], read[name].shape[0], precision)(tower)
        if fusion == "experts":
            return modality_experts(params["mixture"], vectors, there, precision)
        return fuse(params, vectors, there, precision)

    return Module(spec, apply)


def _spec(
    taps: Shapes, cross: bool, fusion: str, config: TowerConfig, embedding: int, transform: tuple[str, int]
) -> dict[str, Any]:
    spec: dict[str, Any] = {"towers": {name: _tower_spec(taps, name, cross, config) for name in taps}}
    if cross:
        maps = {name: _maps_spec(taps, name, *transform) for name in taps}
        spec |= {"transform": {name: part for name, part in maps.items() if part}} if any(maps.values()) else {}
    spec["heads"] = {
        name: {"output": affine_spec(width, embedding, xavier=name == "image")} for name, (_, width) in taps.items()
    }
    if fusion == "experts":
        spec["mixture"] = modality_experts_spec(tuple(taps), embedding)
    elif len(taps) > 1:
        spec["fusion"] = affine_spec(len(taps) * embedding, embedding)
    return spec


def _tower_spec(taps: Shapes, name: str, cross: bool, config: TowerConfig) -> dict[str, Any]:
    """A side tower, and with cross terms `cross` [K, M-1], gates of the other modalities in order."""
    spec = tower_spec(*taps[name], config)
    if cross:
        value = config.gate_init
        shape = (taps[name][0], len(taps) - 1)
        spec["cross"] = ParamSpec(shape, (None, None), lambda key, shape, dtype: jnp.full(shape, value, dtype))
    return spec


def _maps_spec(taps: Shapes, name: str, transform: str, rank: int) -> dict[str, Any]:
    """Maps from modalities of another width into the tower of `name`."""
    steps, width = taps[name]
    return {
        other: transform_spec(own, width, steps, transform, rank) for other, (_, own) in taps.items() if own != width
    }


def _mixtures(
    params: PyTree,
    name: str,
    taps: Mapping[str, list[jax.Array]],
    there: Mapping[str, jax.Array] | None,
    cross: bool,
    config: TowerConfig,
    precision: Precision,
) -> Iterator[Mixture]:
    """What the tower of `name` reads at each step: its gated tap and state, and the others' taps."""
    tower, maps = params["towers"][name], params.get("transform", {}).get(name, {})
    gates = gate_values(tower, config)
    opened = jax.nn.sigmoid(tower["cross"].astype(jnp.float32) / config.gate_temperature) if cross else None
    for k, tap in enumerate(taps[name]):
        sent = []
        for m, other in enumerate(other for other in taps if other != name and cross):
            at = len(taps[other]) - len(taps[name]) + k
            if at < 0 or opened is None:
                continue
            given = taps[other][at]
            if other in maps:
                given = transformed(maps[other], given, k, precision)
                # A map's bias would speak for a modality that is not there.
                given = given if there is None else jnp.where(there[other], given, 0.0)
            sent.append((opened[k, m], given))
        gate = None if gates is None else gates[k]

        def mixture(state: jax.Array | None, tap=tap, gate=gate, sent=sent) -> jax.Array:
            own = gated(tap, state, gate, config)
            return own + weighted_sum(*zip(*sent, strict=True)) if sent else own

        yield mixture
