"""Weight inheritance: a narrower and shallower student that starts from its teacher's own weights.

A student of the teacher's architecture takes some of its layers and, of every axis that is narrower, the first channels
or heads. Which axis means what is read from the parameters' specs, so one function serves every encoder family. What
the cut breaks, distillation repairs in far fewer steps than training from random weights.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import tree
from erel_jax.errors import ConfigError
from erel_jax.module import ParamSpec

PyTree = Any

_PARTS: dict[str, tuple[str | None, int]] = {
    "qkv": ("heads", 3),
    "input": ("heads", 3),
    "gate_up": ("mlp", 2),
    "second": (None, 3),
}
"""Layers with one axis that holds several of a kind one after another: queries, keys and values; a gate and what it
gates; the taps of a convolution whose windows are flattened."""


class HeadLayout(NamedTuple):
    """How attention heads lie in the axes called "heads".

    Attributes:
        heads: query heads H.
        kv_heads: key and value heads G, a divisor of H; H / G query heads in a row share one.
        width: channels K of a head.
    """

    heads: int
    kv_heads: int
    width: int


def heads_of(config: Any) -> HeadLayout:
    """The head layout of an encoder's config.

    Raises:
        ConfigError: the config has no `heads` or `width`.
    """
    missing = [name for name in ("heads", "width") if not hasattr(config, name)]
    if missing:
        raise ConfigError(f"{type(config).__name__} has no {' and no '.join(missing)}; pass a HeadLayout by hand.")
    heads, head_width = config.heads, getattr(config, "head_width", None) or config.width // config.heads
    return HeadLayout(heads, getattr(config, "kv_heads", heads), head_width)


def chosen_layers(teacher_layers: int, layers: int | Sequence[int] | None) -> tuple[int, ...]:
    """Which of the teacher's layers a student takes.

    Args:
        teacher_layers: how many the teacher has, L'.
        layers: how many the student has, L, whose i-th layer is the teacher's ⌊i · L' / L⌋, or the layers themselves,
            counted from 0 and in ascending order. None takes all.

    Raises:
        ConfigError: more layers than the teacher has, none, or not in ascending order.

    Example:
        >>> chosen_layers(12, 4), chosen_layers(3, 2)
        ((0, 3, 6, 9), (0, 1))
    """
    if layers is None:
        return tuple(range(teacher_layers))
    if isinstance(layers, int):
        if not 1 <= layers <= teacher_layers:
            raise ConfigError(f"got {layers} layers for a student of {teacher_layers}, expected 1 to {teacher_layers}.")
        return tuple(i * teacher_layers // layers for i in range(layers))
    chosen = tuple(int(layer) for layer in layers)
    ascending = all(a < b for a, b in itertools.pairwise(chosen))
    if not chosen or not ascending or chosen[0] < 0 or chosen[-1] >= teacher_layers:
        raise ConfigError(
            f"got layers {list(chosen)}, expected some of 0 to {teacher_layers - 1}, each once and in ascending order."
        )
    return chosen


def inherit(
    teacher_params: PyTree,
    teacher_spec: PyTree,
    student_spec: PyTree,
    *,
    layers: int | Sequence[int] | None = None,
    heads: tuple[HeadLayout, HeadLayout] | None = None,
) -> PyTree:
    """A student's parameters cut out of its teacher's.

    Args:
        teacher_params: arrays of `teacher_spec`.
        teacher_spec: the teacher's `Encoder.module.spec`, or any tree of `ParamSpec`s with a stack under "layers".
        student_spec: the same tree with axes that are as long or shorter.
        layers: which of the teacher's layers the student takes, see `chosen_layers`; None spreads them evenly.
        heads: layouts of teacher and student (`heads_of(config)`). Needed where a head's width or the number of query
            heads per key head differs: then the first heads are taken, and of each its first channels. None takes the
            first channels of the axis, which is the same wherever both are equal.

    Returns:
        Arrays of `student_spec`, in its dtypes; they are cut on the host.

    Raises:
        ConfigError: a parameter that the teacher lacks, an axis of another name, or one longer than the teacher's.

    Fused axes (queries, keys and values in one kernel; gate and up) are cut part by part. Heads whose width differs
    are cut channel by channel; do not narrow heads with rotary positions, since these turn the first half of a head's
    channels against the second.

    Reference: TinyCLIP (Wu et al. 2023), manual inheritance. Relation: `student_config` makes the narrower
    architecture, `inherited_student` both at once.
    """
    specs, values = tree.paths(teacher_spec), tree.paths(teacher_params)
    taken = _layers(specs, tree.paths(student_spec), layers)

    def cut(path: str, leaf: ParamSpec) -> jax.Array:
        source = specs.get(path)
        if source is None or path not in values:
            raise ConfigError(
                f"the teacher has no parameter {path!r}; a student must be of its teacher's architecture, without "
                f"adapters. The teacher has {', '.join(list(values)[:8])}, …"
            )
        if source.axes != leaf.axes or jnp.shape(values[path]) != tuple(source.shape):
            raise ConfigError(
                f"{path}: the teacher has axes {source.axes} and shape {jnp.shape(values[path])} (its spec says "
                f"{tuple(source.shape)}), the student axes {leaf.axes}; expected equal axes and shapes."
            )
        value = np.asarray(values[path])
        for axis, (name, size, wanted) in enumerate(zip(leaf.axes, source.shape, leaf.shape, strict=True)):
            if name == "layers":
                places = _layer_places(path, taken, size, wanted)
            else:
                places = _places(path, name, size, wanted, heads)
            if not np.array_equal(places, np.arange(size)):
                value = np.take(value, places, axis=axis)
        return jnp.asarray(value.astype(leaf.dtype))

    return tree.map_with_path(cut, student_spec)


class _Taken(NamedTuple):
    """Layers of the teacher, L' in all, that the student's L layers come from."""

    layers: tuple[int, ...]
    of: int


def _layers(teacher: dict[str, ParamSpec], student: dict[str, ParamSpec], layers: Any) -> _Taken:
    counts = [
        max((leaf.shape[leaf.axes.index("layers")] for leaf in specs.values() if "layers" in leaf.axes), default=0)
        for specs in (teacher, student)
    ]
    if not counts[0] or not counts[1]:
        return _Taken((), 0)
    chosen = chosen_layers(counts[0], counts[1] if layers is None else layers)
    if len(chosen) != counts[1]:
        raise ConfigError(f"got {len(chosen)} layers {list(chosen)} for a student that has {counts[1]}.")
    return _Taken(chosen, counts[0])


def _layer_places(path: str, taken: _Taken, size: int, wanted: int) -> np.ndarray:
    """Where the student's layers lie in a stack, which may lack the first layer (ModernBERT's attention norms)."""
    missing = taken.of - size
    if missing not in (0, 1) or wanted != len(taken.layers) - missing:
        raise ConfigError(
            f"{path}: a stack of {size} layers, the student's of {wanted}; expected {taken.of} or one less."
        )
    places = np.asarray(taken.layers[missing:], np.int64) - missing
    if places.size and places[0] < 0:
        raise ConfigError(f"{path}: layer 0 of the teacher has none, so it can only be layer 0 of the student.")
    return places


def _places(path: str, name: str | None, size: int, wanted: int, heads: Any) -> np.ndarray:
    """Which entries of an axis the student takes."""
    views = [_view(path, name, size, heads and heads[0]), _view(path, name, wanted, heads and heads[1])]
    if any(ours > theirs for ours, theirs in zip(views[1], views[0], strict=True)):
        raise ConfigError(
            f"{path}: axis {name!r} of the student is {_times(views[1])}, of the teacher {_times(views[0])}; a student "
            "takes the first of each, so it may not have more of any."
        )
    return np.arange(size).reshape(views[0])[tuple(slice(length) for length in views[1])].reshape(-1)


def _view(path: str, name: str | None, size: int, layout: HeadLayout | None) -> tuple[int, ...]:
    """An axis as (parts, key heads, query heads of each, channels); 1 where there is no such division."""
    steps = path.split("/")
    axis, parts = _PARTS.get(steps[-2] if len(steps) > 1 else "", (None, 1))
    kernel_or_named = name is not None or steps[-1] == "kernel"
    parts = parts if axis == name and kernel_or_named else 1
    if size % parts:
        raise ConfigError(f"{path}: axis {name!r} of {size} does not hold {parts} parts of one size.")
    each = size // parts
    if name != "heads" or layout is None:
        return parts, 1, 1, each
    heads, kv_heads, width = layout
    if each == heads * width:
        return parts, kv_heads, heads // kv_heads, width
    if each == kv_heads * width:
        return parts, kv_heads, 1, width
    raise ConfigError(f"{path}: an axis of {each} channels is neither {heads} nor {kv_heads} heads of width {width}.")


def _times(view: tuple[int, ...]) -> str:
    return " · ".join(str(length) for length in view if length > 1) or "1"
