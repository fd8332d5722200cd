"""IISAN-Versa: side adapted networks over encoders of any depth and width (arXiv 2411.02992).

As in IISAN every modality has a side tower of its own, here at its own width and with as many blocks as it has taps,
and one more tower reads all modalities together. That tower lives at the smallest width: wider states reach it through
a *dimension transform*, one per step. Towers are right-aligned, so the last taps meet and a deeper tower runs its first
blocks alone. Heads are smaller than IISAN's: a modality's state goes to the item width first and is mixed there.

The paper joins two modalities. Here the joint tower takes any number: its gates are the softmax of one number per
modality, the last one fixed at zero, which for two modalities is IISAN's pair g and 1 - g.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.adapters.dimension_transform import check_transform, transform_spec, transformed
from erel_jax.adapters.side_heads import Presence, affine_spec, fuse, head_of, known_states
from erel_jax.adapters.side_tower import (
    Affine,
    Mixture,
    TowerConfig,
    climb,
    intra_states,
    joined,
    split_taps,
    tower_spec,
)
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision
from erel_jax.module import Module, ParamSpec

PyTree = Any
Shapes = Mapping[str, tuple[int, int]]


def versa(
    taps: Shapes,
    *,
    embedding: int = 64,
    bottleneck: int | Mapping[str, int] = 64,
    inter: bool = True,
    transform: str = "full",
    transform_rank: int = 64,
    config: TowerConfig | None = None,
    precision: Precision = FLOAT32,
) -> Module:
    """The side network of an item, for encoders of any depth and width.

    `apply(params, {modality: float[N, K, D]}, presence=None) -> float32[N, E]`; `presence` and what an absent modality
    means are as in `iisan`: exactly nothing is read of it, and the joint tower's gates are renormalized over what is
    there. The released learning rates are `IISAN_LEARNING_RATES`, whose patterns cover these names too.

    Args:
        taps: per modality (number of taps K, width D). In the joint tower `image` comes first, the others as given.
        embedding: width E of the item vector.
        bottleneck: inner width R of the side blocks, one for all or one per modality. The joint tower has that of
            the narrowest modality, of `text` where it is as narrow as another.
        inter: whether several modalities also share a joint tower.
        transform: "full", "low_rank" or "shared", see `dimension_transform`.
        transform_rank: rank of "low_rank".
        config: gates and activation, see `TowerConfig`; its bottleneck is not used.
        precision: dtypes of the products; states and sums stay in `accumulate`.

    Raises:
        ConfigError: no modality, a modality without bottleneck, or an unknown transform.

    Reference: arXiv 2411.02992 for two modalities; the joint tower over more is this library's.
    """
    names = tuple(taps)
    if not names:
        raise ConfigError("got no modality, expected at least one.")
    check_transform(transform, transform_rank)
    configs = _configs(names, bottleneck, config or TowerConfig())
    together = tuple(sorted(names, key=lambda name: name != "image")) if inter and len(names) > 1 else ()
    narrow = narrowest(taps)
    spec: dict[str, Any] = {"intra": {name: tower_spec(*taps[name], configs[name]) for name in names}}
    spec |= _joint_spec(taps, together, configs[narrow], transform, transform_rank) if together else {}
    spec |= _heads_spec(taps, taps[narrow][1] if together else None, embedding)

    def apply(
        params: PyTree, states: Mapping[str, jax.Array], presence: Presence | None = None, *, key: Any = None,
        train: bool = False,
    ) -> jax.Array:  # fmt: skip
        read, there = known_states(taps, states, presence)
        vectors = {}
        for name in names:
            finish = head_of(params["heads"][name], read[name].shape[0], precision)
            vectors[name] = finish(partial(intra_states, params["intra"][name], read[name], configs[name], precision))
        if together:
            finish = head_of(params["heads"]["inter"], read[narrow].shape[0], precision)
            ordered = {name: read[name] for name in together}
            vectors["inter"] = finish(partial(joint_states, params, ordered, there, configs[narrow], precision))
        return fuse(params, vectors, there, precision)

    return Module(spec, apply)


def _configs(names: tuple[str, ...], bottleneck: int | Mapping[str, int], basis: TowerConfig) -> dict[str, TowerConfig]:
    ranks = dict(bottleneck) if isinstance(bottleneck, Mapping) else dict.fromkeys(names, bottleneck)
    if set(ranks) != set(names):
        raise ConfigError(f"got bottlenecks of {sorted(ranks)}, expected one for each of {sorted(names)}.")
    return {name: dataclasses.replace(basis, bottleneck=ranks[name]) for name in names}


def narrowest(taps: Shapes) -> str:
    """The modality with the smallest width; `text` among equals, otherwise the first."""
    return min(taps, key=lambda name: (taps[name][1], name != "text"))


def _joint_spec(
    taps: Shapes, together: tuple[str, ...], config: TowerConfig, transform: str, rank: int
) -> dict[str, Any]:
    steps = min(taps[name][0] for name in together)
    narrow = min(taps[name][1] for name in together)
    spec = tower_spec(steps, narrow, config)
    if config.gated and len(together) > 2:
        value = config.gate_init
        shape = (steps, len(together) - 1)
        spec["gates"] = ParamSpec(shape, (None, None), lambda key, shape, dtype: jnp.full(shape, value, dtype))
    wide = {name: taps[name][1] for name in together if taps[name][1] > narrow}
    maps = {name: transform_spec(width, narrow, steps, transform, rank) for name, width in wide.items()}
    return {"inter": spec, "transform": maps} if maps else {"inter": spec}


def _heads_spec(taps: Shapes, joint_width: int | None, embedding: int) -> dict[str, Any]:
    heads: dict[str, Any] = {}
    for name, (_, width) in taps.items():
        hidden = affine_spec(width, embedding, xavier=name == "image")
        heads[name] = {"hidden": hidden, "output": affine_spec(embedding, embedding)}
    if joint_width is not None:
        hidden = affine_spec(joint_width, joint_width, sharded=True)
        heads["inter"] = {"hidden": hidden, "output": affine_spec(joint_width, embedding)}
    if len(taps) == 1:
        return {"heads": heads}
    return {"heads": heads, "fusion": affine_spec(len(heads) * embedding, embedding)}


def joint_states(
    params: PyTree,
    states: Mapping[str, jax.Array],
    there: Mapping[str, jax.Array] | None,
    config: TowerConfig,
    precision: Precision,
    output: Affine | None = None,
) -> jax.Array:
    """The last state of the tower over all modalities.

    `m_k = SANB_k(m_{k-1} + Σ_n w_kn T_kn h_kn)` over the last min(K) taps of each modality, with w_k the softmax of the
    gates over the modalities that an item has.

    Args:
        params: with `inter`, a tree of `tower_spec`, and `transform` for the modalities wider than it.
        states: float[N, K, D] by modality, in the order of the gates.
        there: bool[N, 1] by modality, or None.
        config, precision, output: as in `intra_states`.

    Returns:
        float[N, D′], or float[N, E] with `output`, in `precision.accumulate`.
    """
    steps = len(params["inter"]["blocks"])
    maps = params.get("transform", {})
    read = {name: split_taps(taps[:, taps.shape[1] - steps :], precision) for name, taps in states.items()}
    columns = None if there is None else [there[name] for name in states]

    def mixtures() -> Iterator[Mixture]:
        for k in range(steps):
            parts = [
                transformed(maps[name], taps[k], k, precision) if name in maps else taps[k]
                for name, taps in read.items()
            ]
            weights = _weights(params["inter"], k, len(parts), columns, config)
            joint = reduce(jnp.add, [weight * part for weight, part in zip(weights, parts, strict=True)])
            yield lambda state, joint=joint: joined(state, joint, config)

    return climb(params["inter"], mixtures(), config, precision, output)


def _weights(
    params: PyTree, k: int, count: int, columns: list[jax.Array] | None, config: TowerConfig
) -> list[jax.Array]:
    """The weight of each modality at step k: scalars, or float32[N, 1] where modalities may be absent."""
    if not config.gated:
        ones = [jnp.ones((), jnp.float32)] * count
        return ones if columns is None else [column.astype(jnp.float32) for column in columns]
    free = params["gates"][k].astype(jnp.float32).reshape(count - 1)
    logits = jnp.concatenate([free, jnp.zeros(1, jnp.float32)]) / config.gate_temperature
    if columns is None:
        weights = jax.nn.softmax(logits)
        return [weights[n] for n in range(count)]
    present = jnp.concatenate(columns, axis=1)
    # An item without any modality keeps finite weights; nothing of it is used.
    allowed = present | ~jnp.any(present, axis=1, keepdims=True)
    weights = jax.nn.softmax(jnp.where(allowed, logits[None], -jnp.inf), axis=1)
    return [weights[:, n : n + 1] for n in range(count)]
