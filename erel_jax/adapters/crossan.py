"""CROSSAN: cross-modal side adapted networks for any number of modalities. Experimental.

Every modality has one side tower, and the towers look at each other: at each step a tower reads its own tap, its own
state and, through scalar gates, the other modalities' taps. There is no separate tower over all of them.

    c^m_k = SANB^m_k(g^m_k h^m_k + (1 - g^m_k) c^m_{k-1} + Σ_{n≠m} a^{mn}_k T^n h^n_k)

Each tower ends in one affine map to the item width, and the modalities are fused by a mixture of experts
(`modality_experts`) or by one affine map of all of them side by side. With cross terms off and one modality this is a
plain side tower.

Modalities of equal width and equally many taps form a *group*: their towers are one tower with a leading axis, their
mixtures are one small product with the M × M matrix of gates, and their blocks are one batched product. The public
description leaves details open; this reconstruction (arXiv 2504.10307, no published code) fixes them, and its
parameters may change.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.adapters.dimension_transform import check_transform, transform_spec, transformed
from erel_jax.adapters.modality_experts import modality_experts, modality_experts_spec
from erel_jax.adapters.side_heads import Presence, affine_spec, fuse, known_states
from erel_jax.adapters.side_tower import TowerConfig
from erel_jax.errors import ConfigError, suggest
from erel_jax.layers import FLOAT32, Precision, dense
from erel_jax.layers.activation import activation as activation_named
from erel_jax.module import Module, ParamSpec, normal, zeros

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
            the steps; one map per sending modality and receiving group. See `dimension_transform`.
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
    groups = groups_of(taps)
    spec = _spec(taps, groups, cross, fusion, config, embedding, (transform, transform_rank))

    def apply(
        params: PyTree, states: Mapping[str, jax.Array], presence: Presence | None = None, *, key: Any = None,
        train: bool = False,
    ) -> jax.Array:  # fmt: skip
        read, there = known_states(taps, states, presence)
        last: dict[str, jax.Array] = {}
        for group, members in groups.items():
            tower = _climb_together(params, group, members, read, there, cross, config, precision)
            last |= {name: tower[m] for m, name in enumerate(members)}
        vectors = {}
        for name in names:
            head = params["heads"][name]
            vectors[name] = dense(last[name], head["kernel"], head["bias"], precision)
        if fusion == "experts":
            return modality_experts(params["mixture"], vectors, there, precision)
        return fuse(params, vectors, there, precision)

    return Module(spec, apply)


def _spec(
    taps: Shapes,
    groups: Mapping[str, tuple[str, ...]],
    cross: bool,
    fusion: str,
    config: TowerConfig,
    embedding: int,
    transform: tuple[str, int],
) -> dict[str, Any]:
    names = tuple(taps)
    spec: dict[str, Any] = {
        "towers": {group: _group_spec(taps, members, names, cross, config) for group, members in groups.items()}
    }
    if cross:
        maps = {group: _maps_spec(taps, group, groups, *transform) for group in groups}
        spec |= {"transform": {group: part for group, part in maps.items() if part}} if any(maps.values()) else {}
    spec["heads"] = {name: affine_spec(taps[name][1], embedding, xavier=name == "image") for name in names}
    if fusion == "experts":
        spec["mixture"] = modality_experts_spec(names, embedding)
    elif len(names) > 1:
        spec["fusion"] = affine_spec(len(names) * embedding, embedding)
    return spec


def groups_of(taps: Shapes) -> dict[str, tuple[str, ...]]:
    """Modalities by equal shape of their taps: `"7x768"` → the names that have it, in order."""
    groups: dict[str, tuple[str, ...]] = {}
    for name, (count, width) in taps.items():
        group = f"{count}x{width}"
        groups[group] = (*groups.get(group, ()), name)
    return groups


def _group_spec(
    taps: Shapes, members: tuple[str, ...], names: tuple[str, ...], cross: bool, config: TowerConfig
) -> dict[str, Any]:
    """`blocks/k` with a leading axis of members, `gates` [K, M_g] and `cross` [K, M_g, M]."""
    steps, width = taps[members[0]]
    count, inner = len(members), config.bottleneck
    block = {
        "down": {
            "kernel": ParamSpec((count, width, inner), (None, "embed", "rank"), normal(0.01)),
            "bias": ParamSpec((count, inner), (None, "rank"), zeros),
        },
        "up": {
            "kernel": ParamSpec((count, inner, width), (None, "rank", "embed"), normal(0.01)),
            "bias": ParamSpec((count, width), (None, "embed"), zeros),
        },
    }
    spec: dict[str, Any] = {"blocks": {str(k): block for k in range(steps)}}
    value = config.gate_init

    def opened(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.full(shape, value, dtype)

    if config.gated:
        spec["gates"] = ParamSpec((steps, count), (None, None), opened)
    if cross:
        spec["cross"] = ParamSpec((steps, count, len(names)), (None, None, None), opened)
    return spec


def _maps_spec(
    taps: Shapes, group: str, groups: Mapping[str, tuple[str, ...]], transform: str, rank: int
) -> dict[str, Any]:
    """Maps from modalities of another width into a group."""
    steps, width = taps[groups[group][0]]
    return {name: transform_spec(own, width, steps, transform, rank) for name, (_, own) in taps.items() if own != width}


def _climb_together(
    params: PyTree,
    group: str,
    members: tuple[str, ...],
    read: Mapping[str, jax.Array],
    there: Mapping[str, jax.Array] | None,
    cross: bool,
    config: TowerConfig,
    precision: Precision,
) -> jax.Array:
    """The last states [M_g, N, D] of a group's towers."""
    tower, maps = params["towers"][group], params.get("transform", {}).get(group, {})
    steps = len(tower["blocks"])
    opened = _gates(tower, config)
    state = None
    senders = tuple(read) if cross else members
    for k in range(steps):
        sent = {}
        for name in senders:
            at = read[name].shape[1] - steps + k
            if at >= 0:
                tap = read[name][:, at].astype(precision.accumulate)
                tap = transformed(maps[name], tap, k, precision) if name in maps else tap
                # A map's bias would speak for a modality that is not there.
                sent[name] = jnp.where(there[name], tap, 0.0) if there is not None and name in maps else tap
        mixed = _mixed(opened, k, members, tuple(read), sent, state, cross, config)
        state = _blocks(tower["blocks"][str(k)], mixed, config.activation, precision)
    assert state is not None
    return state


def _gates(tower: PyTree, config: TowerConfig) -> dict[str, jax.Array]:
    names = [name for name in ("gates", "cross") if name in tower]
    return {name: jax.nn.sigmoid(tower[name].astype(jnp.float32) / config.gate_temperature) for name in names}


def _mixed(
    opened: Mapping[str, jax.Array],
    k: int,
    members: tuple[str, ...],
    names: tuple[str, ...],
    sent: Mapping[str, jax.Array],
    state: jax.Array | None,
    cross: bool,
    config: TowerConfig,
) -> jax.Array:
    """What the blocks of step k read: gated own taps and states, and the other modalities' taps, [M_g, N, D]."""
    own = jnp.stack([sent[name] for name in members])
    gate = opened["gates"][k][:, None, None] if config.gated else None
    if state is None:
        mixed = own if gate is None or not config.first_gate_against_zero else gate * own
    else:
        mixed = state + own if gate is None else state + gate * (own - state)
    if not cross:
        return mixed
    columns = [names.index(name) for name in sent]
    others = jnp.asarray([[float(name != member) for name in sent] for member in members], jnp.float32)
    weights = (opened["cross"][k][:, jnp.asarray(columns)] * others).astype(mixed.dtype)
    everything = own if tuple(sent) == members else jnp.stack(list(sent.values()))
    flat = everything.reshape(len(sent), -1)
    return mixed + jnp.matmul(weights, flat, preferred_element_type=mixed.dtype).reshape(mixed.shape)


def _blocks(params: PyTree, x: jax.Array, activation: str, precision: Precision) -> jax.Array:
    """One side block per modality, [M_g, N, D], as one batched product."""
    run = jax.vmap(lambda x, kernel, bias: dense(x, kernel, bias, precision))
    inner = activation_named(activation)(run(x, params["down"]["kernel"], params["down"]["bias"]))
    return x + run(inner, params["up"]["kernel"], params["up"]["bias"])
